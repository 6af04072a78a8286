"""The no-U-turn sampler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import DIVERGENCE, ChainMethod, GradientKernel

RUN = 16  # points of a tree that are made before they are looked at


class NUTS(ChainMethod):
    r"""No-U-turn sampler (Hoffman and Gelman, 2014) with multinomial sampling.

    A trajectory is doubled, forwards or backwards in time at random, until it turns back. Its
    points z are drawn with the probability

    .. math:: p(z) \propto e^{-H(z)}

    (Betancourt, 2017, appendix A.3.2): uniformly progressive within a new half, biased to the new
    half between halves. It has turned when, at either end, the velocity no longer points along
    the sum :math:`\rho` of its momenta (Betancourt, 2017, appendix A.4.2),

    .. math:: p_-^T M^{-1} \rho \le 0 \quad \text{or} \quad p_+^T M^{-1} \rho \le 0,

    which is checked for every balanced sub-tree, and also from each half to the first point of
    the other half, because a trajectory that nearly closes a circle passes the first check (as
    Stan has it since 2.21). Trees are built without recursion: checks need one kept point per
    level (Phan, Pradhan and Jankowiak, 2019). All chains advance in one batch, and a chain whose
    tree has ended leaves the batch, so that the others do not pay for it.

    Parameters
    ----------
    n_chains : int, default=4
        Chains, moved in batches of ``group_size`` (four).
    n_warmup : int, default=500
        Iterations that tune and are thrown away.
    n_draws : int, default=500
        Draws kept per chain.
    thin : int, default=1
        Iterations per draw kept.
    max_tree_depth : int, default=10
        Most doublings of a trajectory, that is, 2 ** max_tree_depth - 1 gradients.
    step_size : float or None, default=None
        First step size; None finds one.
    target_accept : float, default=0.8
        Mean acceptance over the points of a trajectory that the step sizes are tuned for.
    metric : {"diagonal", "low_rank"}, default="diagonal"
        Shape of M: see `HMC`.
    marginalize : bool or "auto", default="auto"
        Whether the output layer (with heteroscedastic noise the mean's part of it) is integrated
        out, exactly, and drawn given all else for each draw kept: the same posterior in fewer
        dimensions, which mixes several times faster. It needs normal noise, of a single output
        if heteroscedastic, and a `NormalPrior`. "auto" does so where that holds and the last
        hidden layer has at most 128 units, since the cost of a gradient grows with their square.
    init : Method, "prior" or None, default=None
        Where chains start: see `HMC`.
    """

    def __init__(
        self,
        n_chains=4,
        n_warmup=500,
        n_draws=500,
        thin=1,
        max_tree_depth=10,
        step_size=None,
        target_accept=0.8,
        metric="diagonal",
        marginalize="auto",
        init=None,
    ):
        self.n_chains = n_chains
        self.n_warmup = n_warmup
        self.n_draws = n_draws
        self.thin = thin
        self.max_tree_depth = max_tree_depth
        self.step_size = step_size
        self.target_accept = target_accept
        self.metric = metric
        self.marginalize = marginalize
        self.init = init

    def check(self):
        """Check the parameters, see `Method.check`."""
        super().check()
        self._require("max_tree_depth", high=20)

    def _kernel(self, log_posterior, theta):
        return _NUTSKernel(self, log_posterior, theta)


class _Subtree(NamedTuple):
    """What `_NUTSKernel._double` built for some chains, of which ``whole`` got to the end."""

    whole: np.ndarray  # (k,) of bool
    theta: Tensor  # (k, n_params), the far end; rows that are not whole are of no use
    momentum: Tensor
    grad: Tensor
    momenta: Tensor  # (k, n_params), their sum over the points
    first: Tensor  # (k, n_params), momentum of the first point
    log_weight: np.ndarray  # (k,), log of the sum of e^(H0 - H)
    chosen_theta: Tensor
    chosen_grad: Tensor
    chosen_value: np.ndarray
    acceptance: np.ndarray  # (k,), sum over the points
    n_points: np.ndarray
    diverging: np.ndarray


class _Run(NamedTuple):
    """Points of a trajectory in a row, of k chains."""

    theta: Tensor  # (size, k, n_params)
    momentum: Tensor
    grad: Tensor
    value: np.ndarray  # (size, k)
    energy: np.ndarray


class _NUTSKernel(GradientKernel):
    def step(self, streams, iteration):
        n_chains = len(self.theta)
        momentum = self.momentum(streams)
        energy = to_numpy(self.metric.kinetic(momentum) - self.value)
        # the two ends of each trajectory: [backward, forward]
        ends = [[self.theta.clone(), momentum.clone(), self.grad.clone()] for _ in range(2)]
        momenta = momentum.clone()
        theta, grad, value = self.theta.clone(), self.grad.clone(), to_numpy(self.value)
        log_weight = np.zeros(n_chains)
        acceptance, n_points = np.zeros(n_chains), np.zeros(n_chains, dtype=int)
        diverging, depth_reached = np.zeros(n_chains, dtype=bool), np.zeros(n_chains, dtype=int)
        alive = np.arange(n_chains)
        for depth in range(self.method.max_tree_depth):
            uniform = streams.select(alive).uniform(2 + (1 << depth)).numpy()
            forward = uniform[:, 0] < 0.5
            rows, ahead = torch.as_tensor(alive), torch.as_tensor(forward)[:, None]
            rows = rows.to(self.theta.device)
            ahead = ahead.to(self.theta.device)
            begin = [torch.where(ahead, f[rows], b[rows]) for b, f in zip(*ends, strict=True)]
            new = self._double(alive, begin, forward, energy[alive], uniform[:, 2:], depth)
            acceptance[alive] += new.acceptance
            n_points[alive] += new.n_points
            diverging[alive] |= new.diverging
            depth_reached[alive] += 1

            # between the old tree and the new: biased to the new
            step_up = new.log_weight - log_weight[alive]
            takes = new.whole & (uniform[:, 1] < np.exp(np.minimum(step_up, 0.0)))
            chains = torch.as_tensor(alive[takes]).to(self.theta.device)
            from_new = torch.as_tensor(takes).to(self.theta.device)
            theta[chains] = new.chosen_theta[from_new]
            grad[chains] = new.chosen_grad[from_new]
            value[alive[takes]] = new.chosen_value[takes]
            log_weight[alive] = np.logaddexp(log_weight[alive], new.log_weight)

            # both trees together: has the trajectory turned?
            old_sum = momenta[rows]
            far = torch.where(ahead, ends[0][1][rows], ends[1][1][rows])  # of the old tree
            both = (old_sum, new.momenta, far, begin[1], new.first, new.momentum)
            turned = self._turned([both])[0]
            momenta[rows] = old_sum + new.momenta
            for which, side in ((~forward, ends[0]), (forward, ends[1])):
                some = torch.as_tensor(which).to(self.theta.device)
                for k, part in enumerate((new.theta, new.momentum, new.grad)):
                    side[k][rows[some]] = part[some]
            alive = alive[new.whole & ~turned]
            if not len(alive):
                break
        self.theta, self.grad = theta, grad
        self.value = torch.as_tensor(value, device=theta.device)
        return {
            "log_prob": value.copy(),
            "acceptance": acceptance / n_points,
            "diverging": diverging,
            "energy": energy,
            "n_leapfrog": n_points,
            "tree_depth": depth_reached,
        }

    def _double(self, chains, begin, forward, energy, uniform, depth) -> _Subtree:
        """Build a new half of 2 ** depth points beyond one end of the trajectories.

        ``chains`` are the numbers of the k chains, ``begin`` their ends (theta, momentum, grad),
        ``energy`` (k,) that of the trajectories' starts, ``uniform`` (k, 2 ** depth). Points are
        made in runs of up to ``RUN``, and looked at when a run is done, all at once: what is left
        of a run after a chain's tree has ended is in vain, but the looking costs far less.
        """
        k, device = len(chains), self.theta.device
        sign = np.where(forward, 1.0, -1.0)
        step = self.column(self.tuner.step_size[chains] * sign)
        theta, momentum, grad = begin
        momenta = torch.zeros_like(momentum)
        chosen_theta, chosen_grad = theta.clone(), grad.clone()
        chosen_value = np.zeros(k)
        log_weight = np.full(k, -np.inf)
        acceptance, n_points = np.zeros(k), np.zeros(k, dtype=int)
        whole, diverging = np.ones(k, dtype=bool), np.zeros(k, dtype=bool)
        out = [torch.empty_like(theta) for _ in range(5)]  # of chains that leave the batch
        rows = np.arange(k)  # which of the k are still in the batch
        size = min(1 << depth, RUN)
        kept: list[tuple[Tensor, Tensor, Tensor]] = [(momenta, momenta, momenta)] * (depth + 1)
        for n in range((1 << depth) // size):
            run = self._follow(theta, momentum, grad, step, size)
            error = energy[rows] - run.energy
            error = np.where(np.isfinite(error), error, -np.inf)  # (size, rows)
            sums = torch.cumsum(run.momentum, 0)
            diverges = _first(error < -DIVERGENCE)
            ends = np.minimum(diverges, self._first_turn(run.momentum, sums))
            seen = np.arange(size)[:, None] <= ends
            acceptance[rows] += (np.exp(np.minimum(error, 0.0)) * seen).sum(0)
            n_points[rows] += seen.sum(0)
            diverging[rows] = diverges == np.minimum(ends, size - 1)
            # uniformly progressive: a new point with its share of the weight so far
            weights = np.logaddexp.accumulate(np.concatenate([log_weight[rows][None], error]))
            with np.errstate(invalid="ignore"):
                share = np.exp(error - weights[1:])
                takes = seen & (uniform[rows, n * size : (n + 1) * size].T < share)
            log_weight[rows] = weights[-1]
            some = np.flatnonzero(takes.any(0))
            if len(some):
                last = size - 1 - np.argmax(takes[::-1, some], axis=0)
                into, at, of = (torch.as_tensor(i).to(device) for i in (rows[some], last, some))
                chosen_theta[into], chosen_grad[into] = run.theta[at, of], run.grad[at, of]
                chosen_value[rows[some]] = run.value[last, some]
            here = (run.momentum[0], momenta, momentum)
            if n == 0:
                first = run.momentum[0]
            theta, momentum, grad = run.theta[-1], run.momentum[-1], run.grad[-1]
            momenta = momenta + sums[-1]
            ended = ends < size
            level = (n >> 1).bit_count()
            if n % 2 == 0:
                kept[level] = here
            else:
                # sub-trees of several runs that end here: the shortest starts at the run kept last
                n_trees = (~n & (n + 1)).bit_length() - 1
                for i in range(level, level - n_trees, -1):
                    middle = kept[i + 1] if i < level else here
                    ended |= self._turned([_tree(kept[i], middle, momentum, momenta)]).any(0)
            if ended.any():
                whole[rows[ended]] = False
                stays = torch.as_tensor(~ended).to(device)
                rows = rows[~ended]
                if not len(rows):
                    break
                theta, momentum, grad = theta[stays], momentum[stays], grad[stays]
                momenta, step, first = momenta[stays], step[stays], first[stays]
                kept = [(a[stays], b[stays], c[stays]) for a, b, c in kept]
        into = torch.as_tensor(rows).to(device)
        if len(rows):
            for full, part in zip(out, (theta, momentum, grad, momenta, first), strict=True):
                full[into] = part
        return _Subtree(
            whole,
            out[0],
            out[1],
            out[2],
            out[3],
            out[4],
            log_weight,
            chosen_theta,
            chosen_grad,
            chosen_value,
            acceptance,
            n_points,
            diverging,
        )

    def _follow(self, theta, momentum, grad, step, size) -> _Run:
        """Make ``size`` leapfrog steps from the given points, (k, n_params) each."""
        shape = (size, *theta.shape)
        thetas, momenta, grads = (theta.new_empty(shape) for _ in range(3))
        values = []
        p = torch.addcmul(momentum, step, grad, value=0.5)  # half a step ahead of theta
        for i in range(size):
            torch.addcmul(theta, step, self.metric.velocity(p), out=thetas[i])
            theta = thetas[i]
            value, by_theta = self.log_posterior.value_and_grad(theta)
            values.append(value)
            grads[i] = by_theta
            momenta[i] = p
            p.addcmul_(step, by_theta)
        momenta.addcmul_(step, grads, value=0.5)
        value = torch.stack(values).cpu().numpy()
        kinetic = self.metric.kinetic(momenta.flatten(0, 1)).cpu().numpy().reshape(value.shape)
        return _Run(thetas, momenta, grads, value, kinetic - value)

    def _first_turn(self, momentum: Tensor, sums: Tensor) -> np.ndarray:
        """Where the first balanced sub-tree of a run that has turned ends, (k,).

        ``momentum`` and its running sums are (size, k, n_params); chains without such a sub-tree
        get ``size``.
        """
        size = len(momentum)
        trees, ends = [], []
        width = 2
        while width <= size:
            half = width // 2
            first, last = momentum[::width], momentum[width - 1 :: width]
            end_left, middle = momentum[half - 1 :: width], momentum[half::width]
            before = sums[::width] - first
            left = sums[half - 1 :: width] - before
            right = sums[width - 1 :: width] - before - left
            trees.append((left, right, first, end_left, middle, last))
            ends.append(np.arange(width - 1, size, width))
            width *= 2
        if not trees:
            return np.full(momentum.shape[1], size)
        end = np.concatenate(ends)[:, None]
        return np.where(self._turned(trees), end, size).min(0)

    def _turned(self, trees: list[_Tree]) -> np.ndarray:
        """Whether each of some trees has turned back, (n_trees, k) of bool.

        A tree is checked as a whole, and each half of it together with the first point of the
        other.
        """
        left, right, first, end_left, middle, last = (
            torch.cat([part.reshape(-1, *part.shape[-2:]) for part in parts])
            for parts in zip(*trees, strict=True)
        )
        pieces = torch.stack([left + right, left + middle, right + end_left])
        velocity = self.metric.velocity(pieces.flatten(0, 2)).view(pieces.shape)
        begins, ends = torch.stack([first, first, end_left]), torch.stack([last, middle, last])
        a, b = torch.linalg.vecdot(velocity, begins), torch.linalg.vecdot(velocity, ends)
        return (torch.minimum(a, b) <= 0).any(0).cpu().numpy()


# sums of the momenta of both halves, momentum of the first and the last point of both
_Tree = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


def _tree(start, middle, last: Tensor, momenta: Tensor) -> _Tree:
    """A tree of several runs, from what was kept of its first run and of its right half's."""
    (first, before, _), (first_right, up_to_right, end_left) = start, middle
    return up_to_right - before, momenta - up_to_right, first, end_left, first_right, last


def _first(true: np.ndarray) -> np.ndarray:
    """Index of the first true entry of each column, or the number of rows."""
    return np.where(true.any(0), true.argmax(0), len(true))
