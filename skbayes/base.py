"""What all supervised estimators share: data in, inference, draws out."""

from __future__ import annotations

import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, ClassVar, NamedTuple

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.base import BaseEstimator, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import validate_data

from skbayes.diagnostics import FEWEST_DRAWS, diagnose, warnings_for
from skbayes.functions import FunctionsMixin
from skbayes.inference import MCLMC, METHODS, Anchored
from skbayes.inference.auto import Choice
from skbayes.inference.checkpoint import Checkpoint, check_checkpoint, fingerprint
from skbayes.inference.groups import resumable, run_method
from skbayes.inference.kernel import ChainMethod
from skbayes.model import Inputs, Layout, LogPosterior
from skbayes.model.out_of_core import OutOfCoreInputs, OutOfCoreLogPosterior
from skbayes.model.priors import PRIORS, NormalPrior
from skbayes.posterior import Posterior
from skbayes.progress import ProgressBar
from skbayes.rows_on_disk import RowsOnDisk, is_on_disk, open_rows
from skbayes.streaming import StreamingMixin
from skbayes.validation import (
    Standardizer,
    check_choice,
    check_finite,
    check_n_jobs,
    check_sample_weight,
    draw_seed,
    mean_squared_norm,
    resolve_device,
    resolve_dtype,
    resolve_method,
    resolve_prior,
    unchanged_on_error,
)

DIAGNOSTIC_ROWS = 512

OF_THE_MODEL = ("hidden_layer_sizes", "activation", "prior", "noise", "standardize")
"""Parameters that a fit which goes on cannot change."""


class _Data(NamedTuple):
    """Checked data, and what is made of them."""

    X: Any
    y: np.ndarray
    weight: np.ndarray | None
    inside: Any  # X as the network sees it
    target: LogPosterior


class BayesianEstimator(FunctionsMixin, StreamingMixin, BaseEstimator):
    """Base of the supervised estimators: `fit`, and what is the same for all predictions.

    Subclasses provide ``_make_network``, ``_encode_y`` and ``_make_likelihood``.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags

    def set_params(self, **params):
        """Set parameters, also those of method and prior objects, such as ``method__n_draws``.

        Parameters
        ----------
        **params : dict
            Parameters by name.

        Returns
        -------
        self : object
            The estimator.

        Raises
        ------
        ValueError
            If a parameter is not known, or belongs to a method or prior that is a string.
        """
        for key in params:
            name, _, rest = key.partition("__")
            if rest and name in ("method", "prior"):
                _check_is_object(name, params.get(name, getattr(self, name)), key)
        return super().set_params(**params)

    posterior_: Posterior
    _layout: Layout

    # what X may be, as scikit-learn's check_array takes it
    _x_checks: ClassVar[dict[str, Any]] = {"accept_sparse": "csr"}
    _standardize_choices: ClassVar[tuple] = (True, False, "X", "arcsinh")

    # ---------------------------------------------------------------- fitting

    def fit(self, X, y=None, sample_weight=None, checkpoint=None):
        """Infer the posterior over the weights.

        Parameters
        ----------
        X : {array-like, CSR matrix, torch Dataset} of shape (n_samples, n_features)
            Training rows. A numpy memory map of 64 MiB or more, and a map-style ``Dataset`` of
            pairs (x, y), are read when rows are needed and never copied whole; the method must be
            one that works on minibatches.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs), optional
            Targets; None with a ``Dataset``, which has its own.
        sample_weight : array-like of shape (n_samples,), optional
            Weights of the rows. A row of weight 2 counts as two equal rows: in the likelihood, in
            the standardiser, and in how much is known.
        checkpoint : str or path-like, optional
            Folder in which Markov chains, or the training of variational dropout, are kept while
            they run, made where it does not exist.
            The same fit (data, parameters, version) goes on from there if it was stopped, even
            killed, and is only loaded if it was finished; any other fit has its own place in the
            folder. Needs an integer ``random_state`` and a method that can be kept; whether
            ``method="auto"`` can depends on the data, so name one.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If a parameter or the data are not allowed; the message names what is.
        """
        with unchanged_on_error(self):
            hint = self._fit(X, y, sample_weight, checkpoint)
        self._warn(hint)
        return self

    def _fit(self, X, y, sample_weight, checkpoint) -> str:
        """Infer the posterior; return what to add to its warnings."""
        check_n_jobs(self.n_jobs)
        method = resolve_method(self.method)
        again = self.warm_start and hasattr(self, "posterior_")
        if method is not None:
            check_checkpoint(checkpoint, method, self.random_state)
        seed = draw_seed(self.random_state)
        data = self._prepare(X, y, sample_weight, again, seed)
        X, target = data.X, data.target
        choice = None
        if method is None:
            choice = Choice.of(target, getattr(self, "_choice", None) if again else None)
            method, again = choice.method, choice.goes_on
            check_checkpoint(checkpoint, method, self.random_state)
        if isinstance(X, RowsOnDisk) and not method.reads_from_disk:
            raise ValueError(
                f"method={method!r} is not allowed with rows that are not in memory; use one of "
                f"{', '.join(repr(name) for name, cls in METHODS.items() if cls.reads_from_disk)}."
            )
        print_of_data = None
        if isinstance(method, ChainMethod) or checkpoint is not None:
            print_of_data = fingerprint(X, data.y, data.weight, target.dtype)
        theta0 = state = store = None
        if again:
            theta0 = self._warm_theta(method, target.dtype, target.device)
            if resumable(self.posterior_.state, method, print_of_data):
                state = self.posterior_.state
        if checkpoint is not None:
            begin = None if theta0 is None else theta0.cpu().numpy()
            name = self._fingerprint(method, print_of_data, begin, state)
            store = Checkpoint(checkpoint, name)
        posterior = self._run(method, data, theta0, seed, state=state, checkpoint=store)
        if posterior.state is not None:
            posterior.state["data"] = print_of_data
        self._reservoir = None  # partial_fit goes on with what it has seen itself
        self._store(posterior, data.inside, seed)
        for name in ("log_evidence", "elbo"):
            self.__dict__.pop(f"{name}_", None)
            value = getattr(posterior, name)
            if value is not None:
                setattr(self, f"{name}_", value - target.total_weight * self._log_unit())
        self.__dict__.pop("description_length_", None)
        if posterior.elbo_parts is not None:
            fit, kl = posterior.elbo_parts
            fit -= target.total_weight * self._log_unit()
            bits = {"error": -fit / np.log(2.0), "complexity": kl / np.log(2.0)}
            self.description_length_ = {**bits, "total": sum(bits.values())}
        self._choice = None if choice is None else choice.after(posterior)
        return "" if choice is None else f" (method='auto' took {method!r}.)"

    def _run(self, method, data: _Data, theta0, seed: int, **kwargs) -> Posterior:
        """Run a method on checked data; the keywords are those of `run_method`."""
        bar = ProgressBar(self.verbose, type(self).__name__)
        listening = self._listening(data.target, bar, data.X, data.y)
        try:
            with torch.no_grad(), listening as (watched, on_step):
                posterior = run_method(
                    method, watched, theta0, seed, on_step, n_jobs=self.n_jobs, **kwargs
                )
        finally:
            bar.close()
        self._add_buffers(posterior, data.target)
        few = posterior.n_draws < FEWEST_DRAWS and not posterior.interrupted
        if few and isinstance(method, ChainMethod):
            posterior.messages.append(
                f"n_draws={posterior.n_draws} are too few to tell whether the chains converged."
            )
        if len(posterior.flat) == 1 and not posterior.interrupted:
            with torch.no_grad():
                posterior.messages.extend(self._hints_of_one(posterior, data.target))
        return posterior

    def _warn(self, hint: str = "") -> None:
        """Tell whoever called `fit` what the posterior has to say of its convergence."""
        posterior = self.posterior_
        for message in [*posterior.messages, *warnings_for(self.diagnostics_, posterior.n_chains)]:
            warnings.warn(message + hint, ConvergenceWarning, stacklevel=3)

    def _prepare(self, X, y, sample_weight, again: bool, seed: int, classes=None) -> _Data:
        """Check the model and the data, and make the log posterior of both.

        With ``again``, scaler, network, likelihood and prior are those of the first fit.
        ``classes`` are all that there will be.
        """
        prior = resolve_prior(self.prior)
        device, dtype = resolve_device(self.device), resolve_dtype(self.dtype)
        check_choice("standardize", self.standardize, self._standardize_choices)
        self._check_model()
        if again:
            self._check_same_model()
        on_disk = is_on_disk(X)
        if on_disk:
            X, y = open_rows(self, X, y, self._x_checks, reset=not again)
        else:
            if sp.issparse(y):
                raise ValueError("y is a sparse matrix; pass a dense array, such as y.toarray().")
            X, y = validate_data(
                self,
                X,
                y,
                **self._x_checks,
                dtype=[np.float64, np.float32],
                multi_output=True,
                reset=not again,
            )
        if again:
            self._check_row_shape(X)
        else:
            self._row_shape = X.shape[1:]
            self._model_of_fit = self._of_the_model()
        weight = check_sample_weight(sample_weight, X.shape[0])
        targets, weight = self._encode_y(y, weight, again, classes)
        if not again:
            self._scaler = self._make_scaler().fit(X, weight)
        inside = X.scaled(self._scaler) if on_disk else self._scaler.transform(X)
        check_finite(inside)
        if again:
            network, likelihood = self._layout.network, self._layout.likelihood
            bound = self._layout.prior
        else:
            network = self._make_network(inside, seed)
            likelihood = self._make_likelihood(targets, weight)
            bound = self._bind_prior(prior, network, inside, weight)
        kw: dict[str, Any] = {"dtype": dtype, "device": device}
        make_inputs: Any = partial(self._make_inputs, network=network, **kw)
        kind = OutOfCoreLogPosterior if on_disk else LogPosterior
        rows_in: Any = OutOfCoreInputs(inside, make_inputs) if on_disk else make_inputs(inside)
        target = kind(
            network,
            likelihood,
            bound,
            rows_in,
            torch.as_tensor(targets[None], **kw),
            None if weight is None else torch.as_tensor(weight[None], **kw),
        )
        return _Data(X, y, weight, inside, target)

    def _of_the_model(self) -> dict[str, Any]:
        params = self.get_params(deep=False)
        return {name: clone(params[name], safe=False) for name in OF_THE_MODEL if name in params}

    def _check_same_model(self) -> None:
        """Raise if the model is to be another than that of the fit that is gone on with."""
        for name, was in getattr(self, "_model_of_fit", {}).items():
            now = getattr(self, name)
            if not _is_same(now, was):
                raise ValueError(
                    f"{name}={now!r} is not allowed here: the fit that is gone on with had "
                    f"{name}={was!r}. Set it back, or begin anew (with warm_start=False, and fit)."
                )

    def _warm_theta(self, method, dtype, device):
        """Where the last fit stopped, as starting points of this one."""
        last = self.posterior_.last_state
        n = method.chain_count()
        if last.shape[0] != n:
            raise ValueError(
                f"warm_start=True goes on from {last.shape[0]} chains or members, but method now "
                f"asks for {n}; keep their number, or fit a clone."
            )
        return torch.as_tensor(last, dtype=dtype, device=device)

    def _fingerprint(self, method, data, theta0, state) -> str:
        """Hash of all that the draws depend on."""
        from skbayes import __version__

        params = self.get_params(deep=False)
        for name in ("n_jobs", "verbose", "warm_start"):
            params.pop(name, None)
        params.update(
            method=method, prior=resolve_prior(self.prior), **self._more_for_fingerprint()
        )
        return fingerprint(__version__, type(self).__qualname__, params, data, theta0, state)

    def _more_for_fingerprint(self) -> dict[str, Any]:
        """Parameters by what they hold, where their ``repr`` does not say it."""
        return {}

    def _store(self, posterior, inside, seed: int) -> None:
        """Set the fitted attributes that follow from the posterior."""
        self.posterior_ = posterior
        self._layout = posterior.layout  # whose prior the method may have tuned
        curve = posterior.loss_curve
        if curve is not None:
            # members stop at different times, so the mean is over those still training
            some = ~np.all(np.isnan(curve), 0)
            self.loss_curve_ = np.nanmean(curve[:, some], 0)
            self.n_iter_ = int(curve.shape[1])
        else:
            self.n_iter_ = int(posterior.n_draws)
        n = inside.shape[0]
        rows = np.arange(n)
        if n > DIAGNOSTIC_ROWS:
            rows = np.sort(np.random.default_rng(seed).choice(n, DIAGNOSTIC_ROWS, replace=False))
        self.diagnostics_: dict[str, float] = {}
        if not posterior.independent and posterior.n_draws >= 4:
            parts = [
                self._diagnostic_values(outputs, theta).reshape(len(theta), -1)
                for theta, outputs in posterior.functions(self._forward, inside[rows])
            ]
            values = np.concatenate(parts)
            shape = (posterior.n_chains, posterior.n_draws, -1)
            self.diagnostics_ = diagnose(posterior, values.reshape(shape))

    def _log_unit(self) -> float:
        """Log of what one unit of y, as the network sees it, is in the units of y."""
        return 0.0

    def _check_model(self) -> None:
        """Check the parameters of the model."""
        raise NotImplementedError("abstract")

    def _make_network(self, inside, seed: int, fitted: bool = True) -> Any:
        """The network for rows as it will see them."""
        raise NotImplementedError("abstract")

    def _make_scaler(self) -> Standardizer:
        bend = self.standardize == "arcsinh"
        return Standardizer(bend or self.standardize in (True, "X"), bend)

    def _make_inputs(self, inside, network, *, dtype, device) -> Any:
        """Rows as tensors."""
        return Inputs(inside, dtype=dtype, device=device, scale=network.input_scale)

    def _bind_prior(self, prior, network, inside, weight):
        return prior.build(network, mean_squared_norm(inside, weight))

    def _hints_of_one(self, posterior, target) -> list[str]:
        """What to warn of where the posterior is a single network."""
        return []

    def _listening(self, target, bar, X, y) -> AbstractContextManager:
        """Give the log posterior and the ``on_step`` that a run is to have."""
        return nullcontext((target, bar))

    def _add_buffers(self, posterior, target) -> None:
        """Add to the draws what the network needs besides its weights."""

    def _encode_y(self, y, weight, again: bool, classes=None):
        raise NotImplementedError("abstract")

    def _make_likelihood(self, targets, weight) -> Any:
        raise NotImplementedError("abstract")

    def _diagnostic_values(self, outputs: np.ndarray, theta: np.ndarray) -> np.ndarray:
        raise NotImplementedError("abstract")


def _is_same(now, was) -> bool:
    """Whether two values of a parameter mean the same."""
    if isinstance(now, str) or isinstance(was, str) or isinstance(was, BaseEstimator):
        return type(now) is type(was) and repr(now) == repr(was)
    return np.array_equal(np.asarray(now), np.asarray(was))


def _check_is_object(name: str, value, key: str) -> None:
    """Raise where ``key``, a parameter of a method or prior, would be set on a string or None."""
    if value is not None and not isinstance(value, str):
        return
    own = key.partition("__")[2]
    if name == "method":
        kind: type | None = METHODS.get(str(value))
        if value == "auto":  # one that it may stand for
            kind = MCLMC if own in MCLMC().get_params() else Anchored
    else:
        kind = PRIORS.get(value) if isinstance(value, str) else NormalPrior
    example = "" if kind is None else f", such as {kind.__name__}({own}=...)"
    what = "None" if value is None else "a string"
    raise ValueError(
        f"{key} cannot be set: {name}={value!r} is {what} and has no parameters; pass an "
        f"object{example}."
    )


def random_generator(random_state) -> np.random.Generator:
    """A numpy generator from what scikit-learn calls random_state."""
    if random_state is None:
        return np.random.default_rng()
    return np.random.default_rng(check_random_state(random_state).randint(2**31 - 1))
