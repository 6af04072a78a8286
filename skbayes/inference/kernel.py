"""What Markov chain methods share: starting points, step sizes, metrics, the run itself."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from skbayes.inference.adaptation import DualAveraging, StepTuner, windows
from skbayes.inference.base import Method, points, to_numpy
from skbayes.inference.chains import run_chains
from skbayes.inference.ensemble import Ensemble
from skbayes.inference.metric import METRICS, DiagonalMetric, MetricEstimate, restore_metric
from skbayes.inference.minibatches import on_disk
from skbayes.model.collapsed import CollapsedLogPosterior, why_not
from skbayes.posterior import Posterior

MOST_UNITS = 128  # in the last hidden layer, up to which "auto" integrates the output layer out
START_ROWS = 20_000  # on disk that starting points are looked for with
DIVERGENCE = 1000.0  # energy error from which a trajectory counts as diverged


class ChainMethod(Method):
    """A method that moves Markov chains: a subclass names its kernel and its own parameters."""

    keeps_on_disk = True

    n_chains: int
    n_warmup: int
    n_draws: int
    thin: int
    step_size: float | None
    init: Method | str | None
    marginalize: bool | str

    group_size: int = 4
    """Chains that are moved in one batch and share what they adapt.

    An estimator cuts the chains into such groups, which may run in processes of their own. The
    size is fixed, so that the draws do not depend on how many processes there are.
    """

    def chain_count(self):
        """Number of chains."""
        return self.n_chains

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._require("n_chains", "n_draws", "thin")
        self._require("n_warmup", low=0)
        self._positive("step_size", or_in=(None,))
        if hasattr(self, "target_accept"):
            self._require("target_accept", kind=(int, float), low=0.05, high=0.999)
        if hasattr(self, "metric"):
            self._choice("metric", METRICS)
        self._choice("marginalize", (True, False, "auto"))
        self._check_init("prior")

    def run(self, log_posterior, theta0, streams, on_step=None, state=None, store=None):
        """Sample, see `Method.run`.

        Parameters
        ----------
        log_posterior, theta0, streams, on_step : object
            See `Method.run`.
        state : dict, optional
            Where an earlier run of the same chains stopped, from `Posterior.state`; they go on
            from there without a warm-up.
        store : Store, optional
            Keeps the draws on disk, and what it has of this run already is not drawn again.

        Returns
        -------
        Posterior
        """
        n_warmup, past = self.n_warmup, None
        target = self._target(log_posterior)
        collapsed = target if isinstance(target, CollapsedLogPosterior) else None
        if state is not None:
            state = {**state, "n_warmup": state["iteration"]}
        if store is not None:
            past = store.load(0 if state is None else state["iteration"])
            state = state if past is None else past.state
        if state is None:
            if theta0 is None:
                theta0, stopped = start(self.init, log_posterior, streams, on_step)
                if stopped is not None:
                    return stopped
            if collapsed is not None:
                theta0 = collapsed.reduce(theta0)
            kernel = self._kernel(target, theta0)
            kernel.find_step_size(streams)
        else:
            n_warmup = state["n_warmup"]
            kernel = self._restored(target, state["kernel"])
            streams.restore(state["generators"])
        return run_chains(
            kernel,
            log_posterior.layout,
            streams,
            n_warmup=n_warmup,
            n_draws=self.n_draws,
            thin=self.thin,
            on_step=on_step,
            first=0 if state is None else state["iteration"],
            past=past,
            store=store,
            complete=None if collapsed is None else collapsed.complete,
        )

    def _target(self, log_posterior):
        """What the chains move on: the log posterior, or that without its output layer."""
        if self.marginalize is False:
            return log_posterior
        reason = why_not(log_posterior)
        if self.marginalize is True:
            if reason is not None:
                raise ValueError(
                    f"{type(self).__name__}: marginalize=True is not allowed here, since "
                    f"{reason}; use 'auto' or False."
                )
        elif reason is not None or log_posterior.network.layers[-1].fan_in > MOST_UNITS:
            return log_posterior
        return CollapsedLogPosterior(log_posterior)

    def _restored(self, log_posterior, arrays: dict[str, np.ndarray]):
        """Make the kernel of an earlier run again."""
        arrays = {name: np.array(values) for name, values in arrays.items()}  # may be read-only
        theta = torch.as_tensor(
            arrays["theta"], dtype=log_posterior.dtype, device=log_posterior.device
        )
        kernel = self._kernel(log_posterior, theta)
        kernel.restore(arrays)
        return kernel

    def _kernel(self, log_posterior, theta: Tensor):
        """Make the kernel at its starting points."""
        raise NotImplementedError("abstract")


class Proposal(NamedTuple):
    """Where a step would take all chains."""

    theta: Tensor
    momentum: Tensor
    value: Tensor
    grad: Tensor
    error: Tensor
    """Log acceptance ratio, H - H', (n_chains,)."""

    kinetic: Tensor | None = None
    """Kinetic energy of the start, where it is drawn anew, (n_chains,)."""


class GradientKernel:
    """The state of all chains of a sampler that uses gradients, with its step sizes and metric.

    Parameters
    ----------
    method : ChainMethod
        Its hyper-parameters.
    log_posterior : LogPosterior
        The target.
    theta : Tensor of shape (n_chains, n_params)
        Starting points.

    Attributes
    ----------
    theta, value, grad : Tensor
        Points, their log posterior (float64) and its gradient.
    metric : DiagonalMetric
        Shared by the chains.
    tuner : StepTuner
        One step size per chain, ``tuner.step_size``.
    """

    tuned_by = "acceptance"
    """The statistic that the step sizes are tuned by."""

    def __init__(self, method, log_posterior, theta: Tensor) -> None:
        self.method, self.log_posterior = method, log_posterior
        self.theta = theta
        self.value, self.grad = self.evaluate(theta)
        if not bool(torch.isfinite(self.value).all()):
            raise ValueError("The log posterior is not finite where the chains start.")
        self.metric = DiagonalMetric(torch.ones_like(theta[:1]))
        first = 0.1 if method.step_size is None else float(method.step_size)
        self.tuner = self.make_tuner(np.full(len(theta), first))
        self.estimate = MetricEstimate(getattr(method, "metric", "diagonal"))
        self.schedule = windows(method.n_warmup)
        self.messages: list[str] = []

    def make_tuner(self, step_size: np.ndarray) -> StepTuner:
        """What tunes the step sizes from these on."""
        return DualAveraging(step_size, self.method.target_accept)

    def evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """Log posterior and gradient, in tensors of their own."""
        value, grad = self.log_posterior.value_and_grad(theta)
        return value, grad.clone()

    def step(self, streams, iteration):
        """Move all chains once, see `Kernel.step`."""
        raise NotImplementedError("abstract")

    def adapt(self, iteration, n_warmup, stats):
        """Tune step sizes and, at the ends of windows, the metric; see `Kernel.adapt`."""
        first, ends, _ = self.schedule
        self.tuner.update(stats[self.tuned_by])
        if ends and first <= iteration < ends[-1]:
            self.estimate.add(self.theta)
            if iteration + 1 in ends:
                self.metric = self.estimate.finish(self.theta)
                self.tuner.next_window()
        if iteration + 1 == n_warmup:
            self.tuner.finish()

    def adapted(self):
        """What was tuned, see `Kernel.adapted`."""
        return {
            "step_size": self.tuner.step_size.copy(),
            "inverse_mass": to_numpy(self.metric.variance[0]),
        }

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, besides the random streams."""
        out = {name: to_numpy(getattr(self, name)) for name in ("theta", "value", "grad")}
        for name in ("metric", "tuner", "estimate"):
            out.update(with_prefix(name, getattr(self, name).state()))
        return out

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave.

        Value and gradient are taken from there, since computed anew they might differ by rounding;
        without them (the state was taken in the midst of a step) they are computed.
        """
        like = self.theta
        self.theta = self.tensor(state["theta"])
        if "value" in state:
            self.value = torch.as_tensor(state["value"], device=like.device).clone()
            self.grad = self.tensor(state["grad"])
        else:
            self.value, self.grad = self.evaluate(self.theta)
        self.metric = restore_metric(part_of(state, "metric"), like)
        self.tuner.restore(part_of(state, "tuner"))
        self.estimate.restore(part_of(state, "estimate"), like)

    def find_step_size(self, streams) -> None:
        """Double or halve each chain's step until one leapfrog step is accepted half the time.

        Hoffman and Gelman (2014), algorithm 4.
        """
        if self.method.step_size is not None:
            return
        own = streams.child(1)
        step_size = self.tuner.step_size.copy()
        momentum = self.momentum(own)
        direction = np.zeros(len(step_size))
        for _ in range(60):
            error = to_numpy(self.propose(momentum, step_size, 1).error)
            up = np.where(error > np.log(0.5), 1.0, -1.0)
            direction = np.where(direction == 0.0, up, direction)
            moving = direction == up
            if not moving.any():
                break
            step_size = np.where(moving, step_size * 2.0**direction, step_size)
        self.tuner.restart(step_size)

    def momentum(self, streams) -> Tensor:
        """Fresh momenta (n_chains, n_params)."""
        like = self.theta
        normal = streams.normal(like.shape[1], dtype=like.dtype, device=like.device)
        return self.metric.momentum(normal)

    def leapfrog(
        self, momentum: Tensor, step_size: np.ndarray, n_steps: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Follow all chains for ``n_steps``; one gradient a step, and one value at the end.

        Returns
        -------
        theta, momentum, value, grad : Tensor
        """
        epsilon = self.column(step_size)
        theta = self.theta.clone()
        p = torch.addcmul(momentum, epsilon, self.grad, value=0.5)
        simple = type(self.metric) is DiagonalMetric
        drift = epsilon * self.metric.variance if simple else epsilon
        for i in range(n_steps):
            theta.addcmul_(drift, p if simple else self.metric.velocity(p))
            if i < n_steps - 1:
                p.addcmul_(epsilon, self.log_posterior.grad(theta))
        value, grad = self.log_posterior.value_and_grad(theta)
        p.addcmul_(epsilon, grad, value=0.5)
        return theta, p, value, grad

    def propose(self, momentum: Tensor, step_size: np.ndarray, n_steps: int) -> Proposal:
        """The end of a trajectory from the current points."""
        theta, end, value, grad = self.leapfrog(momentum, step_size, n_steps)
        kinetic = self.metric.kinetic(momentum)
        # H - H': differences of the log densities and of the kinetic energies
        error = (value - self.value) + (kinetic - self.metric.kinetic(end))
        return Proposal(theta, end, value, grad, refused_if_not_finite(error), kinetic)

    def metropolis(self, streams, proposal: Proposal, n_steps: int) -> tuple[Tensor, dict]:
        """Accept a proposal or not, each chain for itself.

        Returns
        -------
        accepted : Tensor of shape (n_chains,)
        stats : dict of str to ndarray
            See `Kernel.step`. Without steps along the gradient (a random walk) there is no
            trajectory that could diverge.
        """
        error = proposal.error
        stats = {
            "acceptance": to_numpy(error.clamp_max(0.0).exp()),
            "energy_error": to_numpy(-error),
            "n_leapfrog": np.full(len(error), n_steps),
        }
        if n_steps:
            stats["diverging"] = to_numpy(error < -DIVERGENCE)
        if proposal.kinetic is not None:  # of the point that the trajectory starts from
            stats["energy"] = to_numpy(proposal.kinetic - self.value)
        uniform = streams.uniform(1, device=self.theta.device)[:, 0]
        accepted = torch.log(uniform) < error
        self.accept(accepted, proposal.theta, proposal.value, proposal.grad)
        stats["log_prob"] = to_numpy(self.value)
        return accepted, stats

    def n_steps(self, length: float) -> int:
        """Leapfrog steps that make up a length, the same for all chains."""
        n = np.ceil(length / np.median(self.tuner.step_size))
        return int(np.clip(n, 1, self.method.max_leapfrog))

    def accept(self, accepted: Tensor, theta: Tensor, value: Tensor, grad: Tensor) -> None:
        """Move the chains whose proposal is accepted."""
        self.theta = torch.where(accepted[:, None], theta, self.theta)
        self.grad = torch.where(accepted[:, None], grad, self.grad)
        self.value = torch.where(accepted, value, self.value)

    def column(self, values: np.ndarray) -> Tensor:
        """Numbers of each chain, as a column (n_chains, 1)."""
        return torch.as_tensor(values[:, None], dtype=self.theta.dtype, device=self.theta.device)

    def tensor(self, values: np.ndarray) -> Tensor:
        """An array as a tensor like theta, from `state`.

        It is a clone, since only memory of torch's own is aligned as that of a run in one go is.
        """
        like = self.theta
        return torch.as_tensor(values, dtype=like.dtype, device=like.device).clone()


def refused_if_not_finite(error: Tensor) -> Tensor:
    """Log acceptance ratios, with minus infinity for what could not be computed."""
    return torch.where(torch.isfinite(error), error, torch.full_like(error, -torch.inf))


def with_prefix(name: str, part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A part of a state as it stands in the whole, see `part_of`."""
    return {f"{name}.{key}": value for key, value in part.items()}


def part_of(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    """The part of a state that `with_prefix` put there."""
    start = f"{name}."
    return {k[len(start) :]: v for k, v in state.items() if k.startswith(start)}


def start(init, log_posterior, streams, on_step) -> tuple[Tensor, Posterior | None]:
    """Starting points of chains, (n_chains, n_params), from streams of their own.

    After Ctrl-C the second value is what was reached, which then is the answer of the run.
    """
    own = streams.child(0)
    if isinstance(init, str):
        return log_posterior.sample_prior(own), None
    if init is None:
        # large batches: chains need a place to start from, not the best members
        init = Ensemble(n_members=streams.n_chains, batch_size=200)
    elif getattr(init, "n_members", 0) > streams.n_chains:
        init = clone(init).set_params(n_members=streams.n_chains)  # the others would be in vain
    elif init.chain_count() != streams.n_chains:
        own = streams.child(0, init.chain_count())
    target = log_posterior
    if on_disk(target):
        some = own.generators[0].choice(target.n, min(target.n, START_ROWS), replace=False)
        target = target.subset(np.sort(some))
    members = init.run(target, None, own, on_step)
    # with fewer members than chains, some chains share a start
    theta = members.last_state[np.arange(streams.n_chains) % members.n_chains]
    theta = torch.as_tensor(theta, dtype=log_posterior.dtype, device=log_posterior.device)
    if not members.interrupted:
        return theta, None
    message = (
        "Sampling was interrupted before it began: the chains' starting points stand for draws."
    )
    return theta, points(theta, log_posterior, members.loss_curve, [message], True)


def jitter(iteration: int) -> float:
    """Part of the longest trajectory that an iteration takes, between a third and all of it."""
    return 1.0 - 2.0 / 3.0 * van_der_corput(iteration + 1)


def van_der_corput(i: int) -> float:
    """The i-th number of the van der Corput sequence of base 2, in (0, 1)."""
    out, scale = 0.0, 0.5
    while i:
        out += scale * (i & 1)
        i >>= 1
        scale *= 0.5
    return out
