"""What stochastic-gradient Markov chains share: minibatches, step sizes, the clock of the draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import ChainMethod
from skbayes.inference.minibatches import Minibatches

BATCH_SIZE = 200
CURVATURE_ROWS = 2000  # that the largest curvature is taken from
MOST_HALVINGS = 20  # of a default rate, in one iteration
EXCESS = 10.0  # nats a row that an iteration may lose before it counts as having run away


class StochasticMethod(ChainMethod):
    r"""A Markov chain method whose steps see a minibatch of the rows.

    Step sizes are those of gradient descent on the mean loss per row: with a total weight n of the
    rows, ``learning_rate`` / n is the step size on the log posterior. So a rate means the same
    whatever the size of data and batch. The temperature T raises the posterior to the power 1 / T;
    one is the posterior itself.

    Where no rate is given, every chain takes a share (``safe_rate``) of the inverse of the largest
    curvature of the mean loss at its starting point, by power iteration on gradients: what is
    stable there, and a bias of the order of that share. The noise of minibatches widens the draws
    by about the rate times the curvature times n / (4 batch); so that it does not by more than a
    tenth, the rate falls with 2 batch / n where that is below one, unless control variates take
    the noise off. Where the curvature is larger elsewhere and a chain runs away, all chains take
    the iteration anew, that one with half its rate, and a warning says so; with a rate given, it is
    an error.
    """

    n_steps: int | None
    batch_size: int | None
    learning_rate: float | None
    temperature: float
    control_variates: bool

    safe_rate = 0.2
    reads_from_disk = True

    thin = 1
    marginalize = False
    step_size = None

    def rows_of_a_step(self, n_rows: int) -> int:
        """The size of minibatches where there are so many rows."""
        return min(n_rows, BATCH_SIZE if self.batch_size is None else self.batch_size)

    def share_for_noise(self, n_rows: int) -> float:
        """Factor on the default rate that keeps the noise of minibatches small."""
        if self.control_variates or self.learning_rate is not None:
            return 1.0
        return min(1.0, 2.0 * self.rows_of_a_step(n_rows) / n_rows)

    def steps_of_a_pass(self, n_rows: int) -> int:
        """How many minibatches make up all rows."""
        return -(-n_rows // self.rows_of_a_step(n_rows))

    def run(self, log_posterior, theta0, streams, on_step=None, state=None, store=None):
        """Sample, see `ChainMethod.run`."""
        if state is not None:  # of an earlier run, what it said of its rates is not said again
            state = {**state, "kernel": {**state["kernel"], "halvings": np.array(0)}}
        return super().run(log_posterior, theta0, streams, on_step, state, store)

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._require("n_chains", "n_draws")
        self._require("n_warmup", low=0)
        self._require("n_steps", "batch_size", or_in=(None,))
        self._positive("learning_rate", or_in=(None,))
        self._require("temperature", kind=(int, float), low=0)
        self._choice("control_variates", (True, False))
        self._check_init("prior")


class StochasticKernel:
    """Chains that move by steps on minibatches; a subclass says what a step is.

    One iteration advances the clock, which adds up the step sizes, by ``n_steps`` times the first
    step size. Where step sizes fall, later iterations take more steps: their draws are equally far
    apart in the time of the diffusion, so that all weigh the same.

    Parameters
    ----------
    method : StochasticMethod
        Its hyper-parameters.
    log_posterior : LogPosterior
        The target.
    theta : Tensor of shape (n_chains, n_params)
        Starting points, which are the centres of control variates too.

    Attributes
    ----------
    rate : Tensor of shape (n_chains, 1)
        First step size of every chain, in units of the log posterior.
    t : int
        Steps taken.
    clock, spent : float
        Sum of the step sizes, in units of the first: that is due, and that is done.
    """

    names: tuple[str, ...] = ()
    """Tensors besides theta and rate that the next step depends on."""

    fewest_steps = 100
    """Steps of an iteration where ``n_steps`` is None, if a pass over the data is shorter."""

    most_steps = 1000
    """The same, if a pass is longer."""

    def __init__(self, method, log_posterior, theta: Tensor) -> None:
        self.method, self.log_posterior, self.theta = method, log_posterior, theta
        self.batch_size = method.rows_of_a_step(log_posterior.n)
        self.n_steps = method.n_steps
        if self.n_steps is None:
            self.n_steps = self.default_steps()
        rate = 0.0 if method.learning_rate is None else method.learning_rate
        self.rate = torch.full_like(theta[:, :1], rate / log_posterior.total_weight)
        self.t, self.clock, self.spent = 0, 0.0, 0.0
        self.halvings = 0  # of rates in this run, see `step`
        self._told = ""  # of them
        self._height: tuple[Any, Any] = None, None  # points, and their log posterior on some rows
        self.messages: list[str] = []
        self._feed()
        self.centre: Tensor | None = None
        if method.control_variates:
            self._set_centre(theta)
        self.value = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)

    def default_steps(self) -> int:
        """Steps of an iteration: a pass over the data, within bounds."""
        one_pass = self.method.steps_of_a_pass(self.log_posterior.n)
        return int(np.clip(one_pass, self.fewest_steps, self.most_steps))

    def _feed(self) -> None:
        """Make the source of minibatches, see `Minibatches`."""
        self.minibatches = Minibatches(self.log_posterior, self.batch_size)
        self.source = self.log_posterior
        # not worth a pass of its own where draws follow each other faster than passes
        passes = self.n_steps * self.batch_size / self.log_posterior.n
        self.with_value = passes >= 1 and not self.minibatches.on_disk

    def size(self, t: int) -> float:
        """Step size of step t (from 0) over the first."""
        return 1.0

    def move(self, streams, epsilon: Tensor) -> dict[str, np.ndarray] | None:
        """Take one step of sizes (n_chains, 1), in units of the log posterior; give statistics."""
        raise NotImplementedError("abstract")

    def step(self, streams, iteration):
        """Move all chains once, those that run away at a lower rate; see `Kernel.step`."""
        tuned, start = self.method.learning_rate is None, self.theta
        before = self.state() if tuned else {}
        tries = 0
        stats = self.advance(streams, iteration)
        while not bool((good := self.has_stayed(start, streams, tuned)).all()):
            if not tuned or tries == MOST_HALVINGS:
                raise ValueError(self.ran_away(good))
            tries += 1
            before = slower(before, np.where(to_numpy(good), 1.0, 0.5))
            before["halvings"] = np.array(self.halvings + 1)
            self.restore(before)
            stats = self.advance(streams, iteration)
        return self.finish(stats)

    def has_stayed(self, start: Tensor, streams, nearby: bool = True) -> Tensor:
        """Whether an iteration that began at ``start`` has not run away, (n_chains, 1).

        What diverges may be finite yet, which ``nearby`` looks for: the log posterior has fallen
        by more than draws vary by, which grows with the number of parameters.
        """
        finite = torch.isfinite(self.theta).all(1, keepdim=True)
        if not nearby or not bool(finite.any()):
            return finite
        target, n = self.log_posterior, self.log_posterior.n
        if n > CURVATURE_ROWS:  # the same at all times, from the first chain's numbers
            index = streams.child(2).generators[0].choice(n, CURVATURE_ROWS, replace=False)
            target = target.minibatch(index)
        known, before = self._height
        if known is not start:
            before = target(start)
        self._height = self.theta, target(self.theta)
        rows = self.log_posterior.total_weight
        allowed = EXCESS * rows + max(1.0, self.method.temperature) * start.shape[1]
        near = self._height[1] > before - allowed
        return finite & near[:, None]

    def advance(self, streams, iteration) -> dict[str, np.ndarray]:
        """Take the steps of an iteration, until the clock is due; their statistics."""
        rows: list[dict[str, np.ndarray]] = []
        self.clock += self.n_steps
        size = 0.0
        while self.spent < self.clock - 1e-9:
            size = self.size(self.t)
            found = self.move(streams, self.rate * size)
            if found is not None:
                rows.append(found)
            self.t += 1
            self.spent += size
        stats = {key: np.mean([row[key] for row in rows], 0) for key in (rows[0] if rows else ())}
        return self._with_size(stats, size)

    def _with_size(self, stats: dict[str, np.ndarray], size: float) -> dict[str, np.ndarray]:
        """Add the size of the last step, which is given in units of the first."""
        stats["step_size"] = to_numpy(self.rate[:, 0]).astype(np.float64) * size
        return stats

    def finish(self, stats: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Complete the statistics of an iteration."""
        if self.with_value:
            known, value = self._height
            if known is not self.theta or self.log_posterior.n > CURVATURE_ROWS:
                value = self.log_posterior(self.theta)
            self.value = value
            stats["log_prob"] = to_numpy(self.value)
        return stats

    def ran_away(self, good: Tensor) -> str:
        """What to say when chains, those not ``good`` (n_chains, 1), have gone."""
        rates = self._rates()[~to_numpy(good)[:, 0]]
        return (
            f"{type(self.method).__name__}: chains ran away, at learning rates down to "
            f"{rates.min():.3g} (learning_rate={self.method.learning_rate!r}); set a lower one."
        )

    def _rates(self) -> np.ndarray:
        """Learning rates (n_chains,), in the units that users give them in."""
        return to_numpy(self.rate[:, 0]) * self.log_posterior.total_weight

    def adapt(self, iteration, n_warmup, stats):
        """Nothing is tuned in the warm-up, see `Kernel.adapt`."""

    def find_step_size(self, streams) -> None:
        """Set rates where the user has not, by the largest curvature; see `StochasticMethod`."""
        if self.method.learning_rate is not None:
            return
        curvature = self._largest_curvature(streams.child(2))
        share = self.method.safe_rate * self.method.share_for_noise(self.log_posterior.n)
        self.rate = (share / curvature).to(self.theta.dtype)

    def precondition(self, vector: Tensor) -> Tensor:
        """The preconditioner's product with a vector of every chain, (n_chains, n_params)."""
        return vector

    def _largest_curvature(self, streams, n_iter: int = 15) -> Tensor:
        """Largest eigenvalue in size of the preconditioned Hessian, (n_chains, 1) in float64.

        By power iteration, with differences of gradients for products.
        """
        target, n = self.log_posterior, self.log_posterior.n
        if n > CURVATURE_ROWS:  # the same for all chains, from the first one's numbers
            index = streams.generators[0].choice(n, CURVATURE_ROWS, replace=False)
            target = target.minibatch(index)
        theta = self.theta
        here = target.grad(theta).clone()
        direction = streams.normal(theta.shape[1], dtype=theta.dtype, device=theta.device)
        step = 1e-3 if theta.dtype == torch.float32 else 1e-5
        value = torch.ones_like(theta[:, :1])
        for _ in range(n_iter):
            direction = direction / torch.linalg.vector_norm(direction, dim=1, keepdim=True)
            change = target.grad(theta + step * direction) - here
            direction = self.precondition(change / step)
            value = torch.linalg.vector_norm(direction, dim=1, keepdim=True)
        return value.double().clamp_min(1e-6)

    def adapted(self):
        """The step sizes that chains began with, see `Kernel.adapted`."""
        return {"step_size": to_numpy(self.rate[:, 0])}

    def batch(self, streams) -> np.ndarray | None:
        """Rows of a minibatch of every chain in ``source``, (n_chains, batch); None are all."""
        self.source, index = self.minibatches.draw(streams, self.t)
        return index

    def gradient(self, index: np.ndarray | None, theta: Tensor) -> Tensor:
        r"""Unbiased gradient of the log posterior, in a tensor of its own.

        With control variates (Baker, Fearnhead, Fox and Nemeth, 2019), around the
        chain's centre,

        .. math:: \nabla \log p(\hat\theta \mid D) + \hat\nabla(\theta) - \hat\nabla(\hat\theta),

        both estimates on the same minibatch.
        """
        if index is None:
            return self.log_posterior.grad(theta).clone()
        target = self.source.minibatch(index)
        out = target.grad(theta).clone()
        if self.centre is not None:
            out += self.centre_grad - target.grad(self.centre)
        return out

    def normal(self, streams) -> Tensor:
        """Standard normal numbers like theta."""
        like = self.theta
        return streams.normal(like.shape[1], dtype=like.dtype, device=like.device)

    def state(self) -> dict[str, np.ndarray]:
        """Everything that the next step depends on, besides the random streams."""
        out = {"theta": to_numpy(self.theta), "rate": to_numpy(self.rate), "t": np.array(self.t)}
        out["clock"] = np.array([self.clock, self.spent])
        out["halvings"] = np.array(self.halvings)
        if self.centre is not None:
            out["centre"] = to_numpy(self.centre)
        return {**out, **{name: to_numpy(getattr(self, name)) for name in self.names}}

    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Go on from what `state` gave."""
        self.theta = self._tensor(state["theta"])
        self.rate = self._tensor(state["rate"])
        self.t = int(state["t"])
        self.clock, self.spent = (float(v) for v in state["clock"])
        self.halvings = int(state["halvings"])
        if self.halvings:
            low, high = self._rates().min(), self._rates().max()
            said = [text for text in self.messages if text != self._told]
            self._told = (
                "Chains ran away at the default learning rate. They went on from before that with "
                "half of it, or less, and move less between draws: rates are from "
                f"{low:.3g} to {high:.3g} now. Set learning_rate to the lowest, or raise n_warmup."
            )
            self.messages = [*said, self._told]
        if "centre" in state:
            self._set_centre(self._tensor(state["centre"]))
        for name in self.names:
            setattr(self, name, self._tensor(state[name]))

    def _set_centre(self, centre: Tensor) -> None:
        self.centre = centre.clone()
        self.centre_grad = self.log_posterior.grad(self.centre).clone()

    def _tensor(self, values: np.ndarray) -> Tensor:
        like = self.theta
        return torch.as_tensor(values, dtype=like.dtype, device=like.device).clone()


def slower(state: dict[str, np.ndarray], factor) -> dict[str, np.ndarray]:
    """A kernel's state with step sizes multiplied by a number, or by (n_chains, 1) numbers.

    Velocities go with the roots: their variance is the step size times the temperature.
    """
    out = dict(state)
    for name, power in (("rate", 1.0), ("velocity", 0.5)):
        if name in out:
            out[name] = (out[name] * factor**power).astype(out[name].dtype)
    return out
