"""Inference in a few directions of theta: random ones, those of SGD's path, a curve's plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Method, points, to_numpy
from skbayes.inference.chains import run_chains
from skbayes.inference.curve import train_curve
from skbayes.inference.elliptical import EllipticalKernel
from skbayes.inference.kernel import ChainMethod, start
from skbayes.inference.nuts import NUTS
from skbayes.inference.swag import SWAG
from skbayes.model.log_posterior import Density
from skbayes.posterior import Posterior

KINDS = ("pca", "random", "curve")
CURVE_POINTS = 8  # of the curve that each step of its training looks at
CURVE_STEPS = 1000


class Subspace(ChainMethod):
    r"""Subspace inference (Izmailov et al., 2019).

    Theta is bound to a few directions around a good point,

    .. math:: \theta = \hat\theta + P z, \qquad z \in R^K

    (their equation 1), and Markov chains draw z from

    .. math:: p(z \mid D) \propto p(D \mid \hat\theta + P z)^{1 / T}\, N(z; 0, s^2 I).

    What the columns of P are:

    - ``"pca"``: the first principal components of the path of SGD at a constant rate, as `SWAG`
      follows it, around its average. A column is as long as the path's standard deviation along
      it.
    - ``"random"``: orthonormal directions drawn at random, around the same average.
    - ``"curve"``: the plane of a curve of low loss between two modes
      (`skbayes.inference.curve`; Garipov et al., 2018). The centre is half way between the modes,
      which lie at z = (1, 0) and (-1, 0); the second axis, of the same length, points to the bend.

    Theta is the whole of it: learned noise and hyper-parameters move with the weights, so far as
    the directions contain them. All chains share one subspace, and R-hat tells whether they agree
    in it. Outside of it nothing is explored: along a flat direction that P lacks, the uncertainty
    is missing.

    The paper's prior on z stands in for the prior of the model, which acts through the modes
    only. With ``prior_scale=None`` the model's prior is restricted to the subspace instead, and
    with T = 1 the draws then are from the posterior given that theta lies in the subspace. The
    paper raises T because n rows tell much more than K numbers need; its code has T = n / K as an
    option, which is ``temperature="n_dims"`` here (n being the sum of the rows' weights).

    Elliptical slice sampling (Murray, Adams and MacKay, 2010), the paper's choice, has nothing to
    tune, and needs no gradients. The no-U-turn sampler (`NUTS`) makes more effective draws per
    second where the likelihood is much narrower than the prior.

    Parameters
    ----------
    kind : {"pca", "random", "curve"}, default="pca"
        The directions.
    n_dims : int or None, default=None
        Their number K, at most the length of theta; None is 2 for a curve, else 10. A path has no
        more of them than it has deviations (``rank`` of its `SWAG`).
    sampler : {"nuts", "ess"}, default="nuts"
        How chains move.
    temperature : float or "n_dims", default="n_dims"
        T; "n_dims" is n / K, at least 1. It was chosen by log scores of held-out rows on two tables
        only: T = 1 was a little better on wine (-0.111 against -0.116 per row), and overfitted a
        regression of 100 rows with heteroscedastic noise (-2.97 against -1.26).
    prior_scale : float or None, default=1.0
        s, in the units of the columns of P; None is the model's own prior.
    n_chains : int, default=4
        Chains, moved in one batch.
    n_warmup : int, default=200
        Iterations that are thrown away.
    n_draws : int, default=200
        Draws kept per chain.
    thin : int, default=1
        Iterations per draw kept.
    init : Method or None, default=None
        ``"pca"``: the `SWAG` whose path is taken (of its first mode); ``"random"``: what finds the
        centre; ``"curve"``: what finds the modes (two of them). None is ``SWAG()``, for a curve an
        `Ensemble`.
    """

    def __init__(
        self,
        kind="pca",
        n_dims=None,
        sampler="nuts",
        temperature="n_dims",
        prior_scale=1.0,
        n_chains=4,
        n_warmup=200,
        n_draws=200,
        thin=1,
        init=None,
    ):
        self.kind = kind
        self.n_dims = n_dims
        self.sampler = sampler
        self.temperature = temperature
        self.prior_scale = prior_scale
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.thin = thin
        self.init = init

    @property
    def group_size(self) -> int:  # type: ignore[override]
        """All chains are moved in one batch, since they share the subspace."""
        return self.n_chains

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("kind", KINDS)
        self._choice("sampler", ("ess", "nuts"))
        self._require("n_chains", "n_draws", "thin")
        self._require("n_warmup", low=0)
        self._require("n_dims", or_in=(None,))
        self._positive("temperature", or_in=("n_dims",))
        self._positive("prior_scale", or_in=(None,))
        if self.kind == "curve" and self.n_dims not in (None, 2):
            raise ValueError(
                f"{type(self).__name__}: n_dims={self.n_dims!r} is not allowed with kind='curve'; "
                "the plane of a curve has 2 dimensions: use 2 or None."
            )
        if self.kind == "pca" and not isinstance(self.init, SWAG | None):
            raise ValueError(
                f"{type(self).__name__}: init={self.init!r} is not allowed with kind='pca'; it "
                "must be a SWAG object, whose path is taken, or None."
            )
        self._check_init()

    def run(self, log_posterior, theta0, streams, on_step=None, state=None, store=None):
        """Find the subspace and sample in it, see `ChainMethod.run`.

        From ``theta0``, if given, the path of SGD goes on; a curve is searched for anew.
        """
        n_warmup, past = self.n_warmup, None
        if state is not None:
            state = {**state, "n_warmup": state["iteration"]}
        if store is not None:
            past = store.load(0 if state is None else state["iteration"])
            state = state if past is None else past.state
        if state is None:
            found = self._find(log_posterior, theta0, streams, on_step)
            if found.stopped is not None:
                return found.stopped
            centre, basis, z, messages = found.centre, found.basis, found.z, found.messages
        else:
            n_warmup, arrays = state["n_warmup"], state["kernel"]
            like = {"dtype": log_posterior.dtype, "device": log_posterior.device}
            centre, basis, z = (
                torch.as_tensor(np.array(arrays[name]), **like).clone()  # aligned as at first
                for name in ("subspace.centre", "subspace.basis", "theta")
            )
            messages = []
        temperature = self.temperature
        if temperature == "n_dims":
            temperature = max(1.0, log_posterior.total_weight / basis.shape[1])
        target = SubspaceDensity(log_posterior, centre, basis, temperature, self.prior_scale)
        inner = NUTS(self.n_chains, self.n_warmup, self.n_draws, self.thin, marginalize=False)
        kernel_class = EllipticalKernel if self.sampler == "ess" else type(inner)._kernel
        kernel = kernel_class(inner, target, z)
        if state is None:
            kernel.find_step_size(streams)
        else:
            kernel.restore({name: np.array(values) for name, values in arrays.items()})
            streams.restore(state["generators"])
        posterior = run_chains(
            _WithSubspace(kernel, target),
            log_posterior.layout,
            streams,
            n_warmup=n_warmup,
            n_draws=self.n_draws,
            thin=self.thin,
            on_step=on_step,
            first=0 if state is None else state["iteration"],
            past=past,
            store=store,
            complete=target.complete,
        )
        posterior.messages[:0] = messages
        return posterior

    def _find(self, log_posterior, theta0, streams, on_step) -> _Found:
        """Choose the subspace, and where in it the chains start."""
        if self.kind == "curve":
            return self._find_plane(log_posterior, streams, on_step)
        init = self.init if isinstance(self.init, Method) else SWAG()
        own = streams.child(0, init.chain_count())
        first = None if theta0 is None or len(theta0) < own.n_chains else theta0[: own.n_chains]
        around = init.run(log_posterior, first, own, on_step)
        like = {"dtype": log_posterior.dtype, "device": log_posterior.device}
        centre = torch.as_tensor(around.adapted.get("mean", around.last_state)[0], **like)
        if around.interrupted:
            return _stopped(centre, streams.n_chains, log_posterior)
        n_dims = min(self.n_dims or 10, len(centre))
        exact = {"dtype": torch.float64, "device": log_posterior.device}
        if self.kind == "random":
            normal = streams.child(1, 1).normal(len(centre), n_dims, **exact)[0]
            basis = torch.linalg.qr(normal).Q
        else:
            basis = principal(torch.as_tensor(around.adapted["deviations"][0], **exact), n_dims)
        z = 0.1 * (self.prior_scale or 1.0) * streams.normal(basis.shape[1], **like)
        return _Found(centre, basis.to(**like), z, list(around.messages))

    def _find_plane(self, log_posterior, streams, on_step) -> _Found:
        """The plane of a curve between two modes."""
        ends, stopped = start(self.init, log_posterior, streams.child(0, 2), on_step)
        if stopped is not None:
            return _stopped(ends[0], streams.n_chains, log_posterior)
        if torch.equal(ends[0], ends[1]):
            raise ValueError(
                f"Subspace(kind='curve') needs two modes, but init={self.init!r} finds one: take "
                "Ensemble()."
            )
        own = streams.child(1, CURVE_POINTS)
        curve = train_curve(log_posterior, ends, own, n_steps=CURVE_STEPS, on_step=on_step)
        if curve.interrupted:
            return _stopped(ends[0], streams.n_chains, log_posterior)
        centre, basis = curve.plane()
        t = (np.arange(streams.n_chains) + 0.5) / streams.n_chains
        z = (curve.points(t) - centre) @ basis / (basis**2).sum(0)
        return _Found(centre, basis, z, [])


class _Found(NamedTuple):
    """What `Subspace._find` came to."""

    centre: Tensor  # (n_params,)
    basis: Tensor  # (n_params, n_dims)
    z: Tensor  # (n_chains, n_dims)
    messages: list[str]
    stopped: Posterior | None = None


class SubspaceDensity(Density):
    r"""The density of z, see `Subspace`.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of theta.
    centre : Tensor of shape (n_params,)
        Where z is zero.
    basis : Tensor of shape (n_params, n_dims)
        P.
    temperature : float
        T.
    prior_scale : float or None
        s; None is the prior of theta.
    """

    def __init__(
        self,
        log_posterior,
        centre: Tensor,
        basis: Tensor,
        temperature: float,
        prior_scale: float | None,
    ) -> None:
        self.whole = log_posterior
        # of one layout, so that what is restored is multiplied in the same order
        self.centre, self.basis = centre, basis.contiguous()
        self.temperature, self.own = temperature, prior_scale is not None
        self.prior_scale = 1.0 if prior_scale is None else float(prior_scale)
        self.n_params = basis.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Float type of z."""
        return self.centre.dtype

    @property
    def device(self) -> torch.device:
        """Where z lives."""
        return self.centre.device

    def theta(self, z: Tensor) -> Tensor:
        """Theta (n_chains, n_params) for z (n_chains, n_dims)."""
        return torch.addmm(self.centre, z, self.basis.T)

    def __call__(self, z: Tensor) -> Tensor:
        """Log density (n_chains,) in float64."""
        theta = self.theta(z)
        value = self.whole.log_likelihood(theta) / self.temperature
        return value + (self._log_prior(z) if self.own else self.whole.log_prior_and_grad(theta)[0])

    def complete(self, z: Tensor, value: Tensor | None, streams) -> tuple[Tensor, Tensor]:
        """Theta for z, and the log posterior of the model there."""
        theta = self.theta(z)
        return theta, self.whole(theta)

    def _evaluate(self, z, with_value):
        theta = self.theta(z)
        value, grad = self.whole.value_and_grad(theta)
        log_prior, by_prior = self.whole.log_prior_and_grad(theta)
        value, grad = (value - log_prior) / self.temperature, (grad - by_prior) / self.temperature
        if self.own:
            return value + self._log_prior(z), grad @ self.basis - z / self.prior_scale**2
        return value + log_prior, (grad + by_prior) @ self.basis

    def _log_prior(self, z: Tensor) -> Tensor:
        return -0.5 * (z.double() ** 2).sum(1) / self.prior_scale**2


def principal(deviations: Tensor, n_dims: int) -> Tensor:
    """Principal directions (n_params, <= n_dims) of deviations (k, n_params).

    Each is as long as the standard deviation along it.
    """
    _, singular, directions = torch.linalg.svd(deviations, full_matrices=False)
    n_dims = min(n_dims, int((singular > 1e-9 * singular[0]).sum()))
    if not n_dims:
        raise ValueError(
            "Subspace(kind='pca') needs a path that moves, but SGD stays where it is, as at a mode "
            "where each step takes all rows: lower the batch_size of its SWAG, or take "
            "kind='random'."
        )
    scale = singular[:n_dims] / max(1, len(deviations) - 1) ** 0.5
    return directions[:n_dims].T * scale


class _WithSubspace:
    """A kernel inside the subspace, which is a part of its state."""

    def __init__(self, kernel, target: SubspaceDensity) -> None:
        self.kernel, self.target = kernel, target
        self.step, self.adapt, self.restore = kernel.step, kernel.adapt, kernel.restore

    theta = property(lambda self: self.kernel.theta)
    value = property(lambda self: self.kernel.value)
    messages = property(lambda self: self.kernel.messages)

    def adapted(self):
        return {**self.kernel.adapted(), **self._where()}

    def state(self):
        return {**self.kernel.state(), **{f"subspace.{k}": v for k, v in self._where().items()}}

    def _where(self):
        return {"centre": to_numpy(self.target.centre), "basis": to_numpy(self.target.basis)}


def _stopped(centre: Tensor, n_chains: int, log_posterior) -> _Found:
    """What to return after Ctrl-C."""
    message = "The search for the subspace was interrupted: its centre stands for draws."
    theta = centre.expand(n_chains, -1)
    stopped = points(theta, log_posterior, None, [message], True)
    return _Found(centre, centre[:, None], theta[:, :1], [], stopped)
