"""Bayesian inference over the weights of any torch module."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any, ClassVar

import numpy as np
import torch
from joblib import effective_n_jobs
from torch import nn

from skbayes.base import BayesianEstimator
from skbayes.base_classifier import BayesianClassifier
from skbayes.base_regressor import BayesianRegressor
from skbayes.model import Layout, LogPosterior, ModuleNetwork, ModuleSource, TensorInputs
from skbayes.model.module_source import accepted_params
from skbayes.model.out_of_core import OutOfCoreInputs
from skbayes.module_params import PREFIX, ModuleParams
from skbayes.posterior import Posterior
from skbayes.rows_on_disk import RowsOnDisk
from skbayes.validation import Standardizer

STATISTICS_ROWS = 20_000
"""Rows on disk that the statistics of batch normalisation are estimated from."""


class TensorStandardizer(Standardizer):
    """As its base, for X with more than two dimensions: each number of a row is a column.

    Where it is not active, X stays in its own float type.
    """

    def fit(self, X, weight=None):
        """Take the moments of X (n, ...)."""
        if not self.active:
            return self
        rows = X.flat() if isinstance(X, RowsOnDisk) else X.reshape(len(X), -1)
        return super().fit(rows, weight)

    def transform(self, X):
        """Bring X (n, ...) to the scale of the fit."""
        return super().transform(X.reshape(len(X), -1)).reshape(X.shape) if self.active else X


class _ModuleMixin(ModuleParams, BayesianEstimator):
    """The network that both estimators share."""

    _x_checks: ClassVar[dict[str, Any]] = {"accept_sparse": False, "allow_nd": True}

    module: Any
    callbacks: Any

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = False
        tags.input_tags.three_d_array = True
        return tags

    def __getstate__(self):
        state = super().__getstate__()
        if isinstance(state.get("module"), nn.Module):
            # so that it can be loaded where there is no GPU
            tensors = [*state["module"].parameters(), *state["module"].buffers()]
            if any(tensor.device.type != "cpu" for tensor in tensors):
                state = {**state, "module": copy.deepcopy(state["module"]).cpu()}
        return state

    def _check_model(self) -> None:
        kind = self._module_class()
        if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
            raise ValueError(
                f"module={self.module!r} is not allowed; it must be a torch.nn.Module, its class "
                "or an instance."
            )
        names, any_name = accepted_params(kind)
        for key in self._own_module_params():
            if not key.startswith(PREFIX):
                raise ValueError(
                    f"{key} is not a parameter of {type(self).__name__}; those of the module have "
                    f"the prefix {PREFIX!r}."
                )
            if not any_name and key.removeprefix(PREFIX) not in names:
                raise ValueError(
                    f"{key} is not a parameter of {kind.__name__}; allowed are "
                    f"{', '.join(PREFIX + name for name in names) or 'none'}."
                )
        if self.callbacks is not None:
            from skbayes.callbacks import check_callbacks

            check_callbacks(self.callbacks)
            if effective_n_jobs(self.n_jobs) > 1:
                raise ValueError(
                    f"n_jobs={self.n_jobs!r} is not allowed with callbacks, which cannot follow "
                    "what runs in other processes; use None or 1."
                )

    def _module_class(self):
        return self.module if isinstance(self.module, type) else type(self.module)

    def _make_network(self, inside, seed, fitted=True) -> ModuleNetwork:
        params = {k.removeprefix(PREFIX): v for k, v in self._own_module_params().items()}
        is_class = isinstance(self.module, type)
        n_outputs = self._n_network_outputs(fitted)
        if is_class or params:
            names, _ = accepted_params(self._module_class())
            known = {"n_inputs": inside.shape[1], "n_outputs": n_outputs}
            params = {**{k: v for k, v in known.items() if k in names}, **params}
        return ModuleNetwork(
            ModuleSource(self.module, params, tuple(inside.shape[1:])),
            inside,
            n_outputs if fitted else None,
            seed=seed,
            **self._module_options(),
        )

    def _module_options(self) -> dict[str, Any]:
        """What the network is told of its outputs."""
        return {}

    def _make_scaler(self):
        bend = self.standardize == "arcsinh"
        return TensorStandardizer(bend or self.standardize in (True, "X"), bend)

    def _make_inputs(self, inside, network, *, dtype, device):
        return TensorInputs(inside, dtype=dtype, device=device)

    def _bind_prior(self, prior, network, inside, weight):
        return prior.build(network)

    def _more_for_fingerprint(self):
        network = self._layout.network if hasattr(self, "posterior_") else None
        out: dict[str, Any] = {"callbacks": None}
        if isinstance(self.module, nn.Module):
            state = {k: v.detach().cpu().numpy() for k, v in self.module.state_dict().items()}
            out["module"] = [repr(self.module), state]
        if network is not None:
            out["parameters"] = network.parameters()
        return out

    def _listening(self, target, bar, X, y):
        if not self.callbacks:
            return nullcontext((target, bar))
        from skbayes.callbacks import Listener

        return Listener(self, target, bar, X, y)

    def _add_buffers(self, posterior: Posterior, target: LogPosterior) -> None:
        """Estimate the statistics of batch normalisation for every draw.

        From all rows; where they are not in memory, from some thousand that are evenly spread.
        """
        layout: Layout = target.layout
        if not layout.n_buffers:
            return
        inputs = target.inputs
        if isinstance(inputs, OutOfCoreInputs):
            some = np.linspace(0, target.n - 1, min(target.n, STATISTICS_ROWS))
            inputs = inputs.take(some.round().astype(int))
        flat = torch.as_tensor(posterior.flat, dtype=target.dtype, device=target.device)
        with torch.no_grad():
            weights = layout.for_forward(flat)
            buffers = target.network.statistics(weights, inputs).cpu().numpy()
        shape = (posterior.n_chains, posterior.n_draws, layout.n_buffers)
        posterior.draws = np.concatenate([posterior.draws, buffers.reshape(shape)], 2)


class BayesianModuleClassifier(_ModuleMixin, BayesianClassifier):
    r"""Bayesian inference over the weights of a torch module, for classification.

    As `BayesianMLPClassifier` with a network of one's own: convolutions, recurrences, attention.
    The module returns logits :math:`f_\theta(x)`, and

    .. math:: p(y \mid x, \theta) = \operatorname{softmax}(f_\theta(x))_y.

    Parameters
    ----------
    module : type or torch.nn.Module
        A class derived from `torch.nn.Module`, called with the ``module__`` parameters, or an
        instance, which is copied and stays as it is. Its ``forward`` takes X as a float tensor
        (n, ...) and returns logits (n, n_classes); for two classes one or two columns; for
        multilabel y one column per label; no softmax. If its class has the parameters
        ``n_inputs`` or ``n_outputs`` and they are not given, they become the length of the second
        axis of X and the number of outputs needed.

        A class is called anew for every chain, so that each starts from its own initial weights.
        Of an instance the first chain starts at the weights that it has, the others where
        ``reset_parameters`` puts them; with ``module__`` parameters it stands for its class.
    method : str or Method, default="auto"
        How the posterior is explored, as in `BayesianMLPClassifier`.
    prior : str, Prior or None, default=None
        Prior of the weights: ``"normal"``, ``"laplace"``, ``"student_t"``, ``"hierarchical"``,
        ``"horseshoe"`` and others, or an object from `skbayes.model.priors`, which holds its
        scale. None is ``NormalPrior(scale=2.0, fan_in=True)``: the deviation of a weight is
        2 / sqrt(fan-in), that of biases and of the parameters of normalisation layers 2.
    standardize : {True, False, "X", "arcsinh"}, default=False
        Whether each number of a row of X is brought to mean zero and deviation one (True, "X"), and
        those with heavy tails are bent, as `BayesianMLPClassifier` does ("arcsinh").
    class_weight : dict, "balanced" or None, default=None
        Weights of the classes, as if there were more rows of them.
    callbacks : list of skorch callbacks or None, default=None
        Called as in skorch: at the beginning and end of the fit and of every epoch (a step of the
        method: an epoch of an optimiser, a draw of a chain). ``net.history`` has ``train_loss``,
        the negative log posterior per row averaged over chains, on at most 1,000 rows;
        ``net.module_`` has the weights of the first chain. `KeyboardInterrupt`, which
        ``EarlyStopping`` raises, ends the fit and keeps what there is.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Float type of the inference; predictions are always in float64.
    warm_start : bool, default=False
        Whether `fit` goes on from where the last one stopped, with the module and the scaling of
        X that it had. Another prior, noise or ``standardize`` is an error.
    n_jobs : int or None, default=None
        Processes that chains of Markov chain methods are spread over, in groups of
        ``method.group_size``; other methods do not need it. None is one, or what a
        `joblib.parallel_config` says; -1 is all cores.
    random_state : int, RandomState instance or None, default=None
        Seed of everything, initial weights included. The same seed gives the same draws.
    verbose : int, default=0
        1 shows a progress bar, and lets callbacks print.
    **module_params : object
        Parameters of the module's class, each with the prefix ``module__``: ``module__width=32``
        calls it with ``width=32``. They can be searched over, see `set_params`.

    Attributes
    ----------
    posterior_ : Posterior
        The draws. With batch normalisation each is followed by the statistics that belong to it.
    classes_ : ndarray of shape (n_classes,)
        Labels (for multilabel y, the labels' numbers).
    n_features_in_ : int
        Number of features (length of the second axis of X).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names, where X had them.
    n_iter_ : int
        Epochs, or draws per chain.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Negative log posterior per row over the epochs, where the method is an optimiser.
    diagnostics_ : dict
        R-hat and effective sample sizes of the predictions, acceptance, divergences, see
        `skbayes.diagnostics.diagnose`; empty where members are independent.
    history_ : list of dict
        What callbacks recorded for every epoch; only with ``callbacks``.

    See Also
    --------
    BayesianModuleRegressor : The same for regression.
    BayesianMLPClassifier : Faster, where the network is a multilayer perceptron.

    Examples
    --------
    >>> import torch
    >>> from sklearn.datasets import load_digits
    >>> from skbayes import BayesianModuleClassifier
    >>> from skbayes.inference import MAP
    >>> class Net(torch.nn.Sequential):
    ...     def __init__(self, width=8, n_outputs=10):
    ...         super().__init__(
    ...             torch.nn.Conv2d(1, width, 3, stride=2), torch.nn.ReLU(), torch.nn.Flatten(),
    ...             torch.nn.Linear(9 * width, n_outputs))
    >>> digits = load_digits()
    >>> X, y = digits.images[:300, None] / 16, digits.target[:300]
    >>> method = MAP(solver="adam", max_epochs=60)
    >>> clf = BayesianModuleClassifier(Net, method=method, module__width=4, random_state=0)
    >>> clf.fit(X, y).predict_proba(X[:2]).shape
    (2, 10)
    >>> bool(clf.score(X, y) > 0.9)
    True
    """

    def __init__(
        self,
        module,
        *,
        method="auto",
        prior=None,
        standardize=False,
        class_weight=None,
        callbacks=None,
        device="cpu",
        dtype="float32",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
        **module_params,
    ):
        self.module = module
        self.method = method
        self.prior = prior
        self.standardize = standardize
        self.class_weight = class_weight
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self._keep_module_params(module_params)

    def _module_options(self):
        pair = hasattr(self, "classes_") and not self._multilabel and len(self.classes_) == 2
        return {"pair": pair, "refuse": "probabilities"}


class BayesianModuleRegressor(_ModuleMixin, BayesianRegressor):
    r"""Bayesian inference over the weights of a torch module, for regression.

    As `BayesianMLPRegressor` with a network of one's own, with normal noise,

    .. math:: y \mid x, \theta \sim N(f_\theta(x), \sigma^2).

    Parameters
    ----------
    module : type or torch.nn.Module
        A class derived from `torch.nn.Module`, called with the ``module__`` parameters, or an
        instance, which is copied and stays as it is. Its ``forward`` takes X as a float tensor
        (n, ...) and returns means (n, n_targets), or (n,) for one target; with
        ``noise="heteroscedastic"`` (n, 2 * n_targets), means and then raw scales. If its class has
        the parameters ``n_inputs`` or ``n_outputs`` and they are not given, they become the length
        of the second axis of X and the number of outputs needed.

        A class is called anew for every chain, so that each starts from its own initial weights.
        Of an instance the first chain starts at the weights that it has, the others where
        ``reset_parameters`` puts them; with ``module__`` parameters it stands for its class.
    method : str or Method, default="auto"
        How the posterior is explored, as in `BayesianMLPRegressor`.
    prior : str, Prior or None, default=None
        Prior of the weights: ``"normal"``, ``"laplace"``, ``"student_t"``, ``"hierarchical"``,
        ``"horseshoe"`` and others, or an object from `skbayes.model.priors`, which holds its
        scale. None is ``NormalPrior(scale=2.0, fan_in=True)``: the deviation of a weight is
        2 / sqrt(fan-in), that of biases and of the parameters of normalisation layers 2.
    noise : {"learned", "heteroscedastic"}, float or array-like, default="learned"
        Standard deviation of the noise: one inferred with the weights, a function of x that the
        module returns, or a number (or one per output) in the units of y.
    standardize : {True, False, "X", "y", "arcsinh"}, default=False
        Whether each number of a row of X, and y, are brought to mean zero and deviation one
        (True), neither (False), or one of them. "arcsinh" is True, and bends numbers with heavy
        tails, see `BayesianMLPClassifier`. The prior expects values of about one.
    callbacks : list of skorch callbacks or None, default=None
        Called as in skorch: at the beginning and end of the fit and of every epoch (a step of the
        method: an epoch of an optimiser, a draw of a chain). ``net.history`` has ``train_loss``,
        the negative log posterior per row averaged over chains, on at most 1,000 rows;
        ``net.module_`` has the weights of the first chain. `KeyboardInterrupt`, which
        ``EarlyStopping`` raises, ends the fit and keeps what there is.
    device : {"cpu", "cuda", "auto"}, default="cpu"
        Where to compute.
    dtype : {"float32", "float64"}, default="float32"
        Float type of the inference; predictions are always in float64.
    warm_start : bool, default=False
        Whether `fit` goes on from where the last one stopped, with the module and the scaling of
        X that it had. Another prior, noise or ``standardize`` is an error.
    n_jobs : int or None, default=None
        Processes that chains of Markov chain methods are spread over, in groups of
        ``method.group_size``; other methods do not need it. None is one, or what a
        `joblib.parallel_config` says; -1 is all cores.
    random_state : int, RandomState instance or None, default=None
        Seed of everything, initial weights included. The same seed gives the same draws.
    verbose : int, default=0
        1 shows a progress bar, and lets callbacks print.
    **module_params : object
        Parameters of the module's class, each with the prefix ``module__``: ``module__width=32``
        calls it with ``width=32``. They can be searched over, see `set_params`.

    Attributes
    ----------
    posterior_ : Posterior
        The draws. With batch normalisation each is followed by the statistics that belong to it.
    noise_std_ : float or ndarray of shape (n_outputs,)
        Posterior mean of the noise's standard deviation in the units of y; not where the noise is
        heteroscedastic.
    n_features_in_ : int
        Number of features (length of the second axis of X).
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names, where X had them.
    n_iter_ : int
        Epochs, or draws per chain.
    loss_curve_ : ndarray of shape (`n_iter_`,)
        Negative log posterior per row over the epochs, where the method is an optimiser.
    diagnostics_ : dict
        R-hat and effective sample sizes of the predictions, acceptance, divergences, see
        `skbayes.diagnostics.diagnose`; empty where members are independent.
    history_ : list of dict
        What callbacks recorded for every epoch; only with ``callbacks``.

    See Also
    --------
    BayesianModuleClassifier : The same for classification.
    BayesianMLPRegressor : Faster, where the network is a multilayer perceptron.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from skbayes import BayesianModuleRegressor
    >>> class Wave(torch.nn.Module):
    ...     def __init__(self, n_waves=5):
    ...         super().__init__()
    ...         self.read = torch.nn.Linear(1, n_waves)
    ...         self.out = torch.nn.Linear(n_waves, 1)
    ...     def forward(self, x):
    ...         return self.out(torch.sin(self.read(x)))
    >>> X = np.linspace(-3, 3, 50)[:, None]
    >>> y = np.sin(2 * X[:, 0])
    >>> reg = BayesianModuleRegressor(Wave, method="map", noise=0.1, random_state=0).fit(X, y)
    >>> mean, std = reg.predict(X, return_std=True)
    >>> bool(np.abs(mean - y).mean() < 0.1)
    True
    """

    def __init__(
        self,
        module,
        *,
        method="auto",
        prior=None,
        noise="learned",
        standardize=False,
        callbacks=None,
        device="cpu",
        dtype="float32",
        warm_start=False,
        n_jobs=None,
        random_state=None,
        verbose=0,
        **module_params,
    ):
        self.module = module
        self.method = method
        self.prior = prior
        self.noise = noise
        self.standardize = standardize
        self.callbacks = callbacks
        self.device = device
        self.dtype = dtype
        self.warm_start = warm_start
        self.n_jobs = n_jobs
        self.random_state = random_state
        self.verbose = verbose
        self._keep_module_params(module_params)
