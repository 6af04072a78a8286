"""Inference in a few directions of theta: random ones, those of SGD's path, a curve's plane."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import points, to_numpy
from skbayes.inference.chains import run_chains
from skbayes.inference.curve import train_curve
from skbayes.inference.elliptical import EllipticalKernel
from skbayes.inference.ensemble import Ensemble
from skbayes.inference.kernel import ChainMethod
from skbayes.inference.nuts import NUTS
from skbayes.inference.sgd_path import check_modes
from skbayes.inference.swag import SWAG
from skbayes.model.log_posterior import Density

KINDS = ("pca", "random", "curve")
CURVE_POINTS = 8  # of the curve that each step of its training looks at


class Subspace(ChainMethod):
    def __init__(
        self,
        kind="pca",
        n_dims=None,
        sampler="nuts",
        temperature=1.0,
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
        check_modes(self)

    def run(self, log_posterior, theta0, streams, on_step=None, state=None, store=None):
        """Find the subspace and sample in it, see `ChainMethod.run`.

        From ``theta0``, if given, the search for the modes begins.
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
                torch.as_tensor(np.array(arrays[name]), **like)
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
            return self._find_plane(log_posterior, theta0, streams, on_step)
        init = SWAG() if self.init is None else self.init
        own = streams.child(0, init.chain_count())
        start = None if theta0 is None or len(theta0) < own.n_chains else theta0[: own.n_chains]
        around = init.run(log_posterior, start, own, on_step)
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

    def _find_plane(self, log_posterior, theta0, streams, on_step) -> _Found:
        """The plane of a curve between two modes."""
        init = Ensemble(n_members=2) if self.init is None else self.init
        own = streams.child(0, max(2, init.chain_count()))
        start = None if theta0 is None or len(theta0) < own.n_chains else theta0[: own.n_chains]
        around = init.run(log_posterior, start, own, on_step)
        like = {"dtype": log_posterior.dtype, "device": log_posterior.device}
        ends = torch.as_tensor(around.last_state[:2], **like)
        if around.interrupted:
            return _stopped(ends[0], streams.n_chains, log_posterior)
        curve = train_curve(log_posterior, ends, streams.child(1, CURVE_POINTS), on_step=on_step)
        centre, basis = curve.plane()
        t = (np.arange(streams.n_chains) + 0.5) / streams.n_chains
        z = (curve.points(t) - centre) @ basis / (basis**2).sum(0)
        return _Found(centre, basis, z, list(around.messages))


class _Found(NamedTuple):
    """What `Subspace._find` came to."""

    centre: Tensor  # (n_params,)
    basis: Tensor  # (n_params, n_dims)
    z: Tensor  # (n_chains, n_dims)
    messages: list[str]
    stopped: object = None


class SubspaceDensity(Density):
    def __init__(self, log_posterior, centre, basis, temperature, prior_scale) -> None:
        self.whole, self.inputs = log_posterior, getattr(log_posterior, "inputs", None)
        self.centre, self.basis = centre, basis
        self.temperature, self.own_prior = temperature, prior_scale is not None
        self.prior_scale = 1.0 if prior_scale is None else float(prior_scale)
        self.n_params = basis.shape[1]

    @property
    def dtype(self):
        return self.centre.dtype

    @property
    def device(self):
        return self.centre.device

    def theta(self, z: Tensor) -> Tensor:
        return torch.addmm(self.centre, z, self.basis.T)

    def __call__(self, z: Tensor) -> Tensor:
        theta = self.theta(z)
        likelihood = self.whole.log_likelihood(theta) / self.temperature
        if self.own_prior:
            return likelihood - 0.5 * (z.double() ** 2).sum(1) / self.prior_scale**2
        return likelihood + self.whole.log_prior_and_grad(theta)[0]

    def complete(self, z, value, streams):
        theta = self.theta(z)
        return theta, self.whole(theta)

    def _evaluate(self, z, with_value):
        theta = self.theta(z)
        value, grad = self.whole.value_and_grad(theta)
        log_prior, by_prior = self.whole.log_prior_and_grad(theta)
        value, grad = (value - log_prior) / self.temperature, (grad - by_prior) / self.temperature
        if self.own_prior:
            square = (z.double() ** 2).sum(1)
            return (
                value - 0.5 * square / self.prior_scale**2,
                grad @ self.basis - z / self.prior_scale**2,
            )
        return value + log_prior, (grad + by_prior) @ self.basis


def principal(deviations: Tensor, n_dims: int) -> Tensor:
    _, singular, directions = torch.linalg.svd(deviations, full_matrices=False)
    k = min(n_dims, int((singular > 1e-9 * singular[0]).sum())) if singular[0] > 0 else 0
    if not k:
        raise ValueError("static")
    scale = singular[:k] / max(1, len(deviations) - 1) ** 0.5
    return directions[:k].T * scale


class _WithSubspace:
    """A kernel inside the subspace, which is a part of its state."""

    def __init__(self, kernel, target):
        self.kernel, self.target = kernel, target
        self.step, self.adapt, self.restore = kernel.step, kernel.adapt, kernel.restore

    theta = property(lambda self: self.kernel.theta)
    value = property(lambda self: self.kernel.value)

    def adapted(self):
        return {**self.kernel.adapted(), **self._where()}

    def state(self):
        return {**self.kernel.state(), **{f"subspace.{k}": v for k, v in self._where().items()}}

    def _where(self):
        return {"centre": to_numpy(self.target.centre), "basis": to_numpy(self.target.basis)}


def _stopped(centre, n_chains, log_posterior):
    message = "The search for the subspace was interrupted: its centre stands for draws."
    theta = centre.expand(n_chains, -1)
    stopped = points(theta, log_posterior, None, [message], True)
    return _Found(centre, centre[:, None], theta[:, :1], [], stopped)
