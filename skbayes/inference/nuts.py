"""The no-U-turn sampler."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import to_numpy
from skbayes.inference.kernel import DIVERGENCE, ChainMethod, GradientKernel


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
        hidden layer has at most 64 units, since the cost of a gradient grows with their square.
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
            whole_sum = old_sum + new.momenta
            far = torch.where(ahead, ends[0][1][rows], ends[1][1][rows])  # of the old tree
            near = begin[1]
            turned = self._turned(
                [whole_sum, old_sum + new.first, new.momenta + near],
                [far, far, near],
                [new.momentum, new.first, new.momentum],
            )
            momenta[rows] = whole_sum
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
        ``energy`` (k,) that of the trajectories' starts, ``uniform`` (k, 2 ** depth).
        """
        k, device = len(chains), self.theta.device
        sign = np.where(forward, 1.0, -1.0)
        step = self.column(self.tuner.step_size[chains] * sign)
        theta, momentum, grad = (part.clone() for part in begin)
        momenta = torch.zeros_like(momentum)
        chosen_theta, chosen_grad = theta.clone(), grad.clone()
        chosen_value = np.zeros(k)
        log_weight = np.full(k, -np.inf)
        acceptance, n_points = np.zeros(k), np.zeros(k, dtype=int)
        whole, diverging = np.ones(k, dtype=bool), np.zeros(k, dtype=bool)
        out = [torch.empty_like(theta) for _ in range(5)]  # of chains that leave the batch
        first = momentum
        rows = np.arange(k)  # which of the k are still in the batch
        kept: list[tuple[Tensor, Tensor, Tensor]] = [(momenta, momenta, momenta)] * (depth + 1)
        for n in range(1 << depth):
            previous = momentum
            momentum = torch.addcmul(momentum, step, grad, value=0.5)
            theta = theta + step * self.metric.velocity(momentum)
            value, grad = self.log_posterior.value_and_grad(theta)
            grad = grad.clone()
            momentum.addcmul_(step, grad, value=0.5)
            if n == 0:
                first = momentum
            error = energy[rows] - (self.metric.kinetic(momentum) - value).cpu().numpy()
            error = np.where(np.isfinite(error), error, -np.inf)
            acceptance[rows] += np.exp(np.minimum(error, 0.0))
            n_points[rows] += 1
            log_weight[rows] = np.logaddexp(log_weight[rows], error)
            # uniformly progressive: the new point with its share of the weight so far
            with np.errstate(invalid="ignore"):
                takes = uniform[rows, n] < np.exp(error - log_weight[rows])
            if takes.any():
                into = torch.as_tensor(rows[takes]).to(device)
                some = torch.as_tensor(takes).to(device)
                chosen_theta[into], chosen_grad[into] = theta[some], grad[some]
                chosen_value[rows[takes]] = value.cpu().numpy()[takes]
            before = momenta
            momenta = momenta + momentum
            ended = error < -DIVERGENCE
            diverging[rows] = ended
            level = (n >> 1).bit_count()
            if n % 2 == 0:
                kept[level] = (momentum, before, previous)
            else:
                # sub-trees that end here: the shortest starts at the point kept last
                n_trees = (~n & (n + 1)).bit_length() - 1
                for i in range(level, level - n_trees, -1):
                    begins, sum_before, _ = kept[i]
                    sums, left, right = [momenta - sum_before], [begins], [momentum]
                    if i < level:
                        middle, sum_middle, ends = kept[i + 1]
                        sums += [sum_middle - sum_before + middle, momenta - sum_middle + ends]
                        left += [begins, ends]
                        right += [middle, momentum]
                    ended |= self._turned(sums, left, right)
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

    def _turned(self, sums: list[Tensor], left: list[Tensor], right: list[Tensor]) -> np.ndarray:
        """Whether any of some pieces of the trajectories has turned back, (k,) of bool."""
        velocity = self.metric.velocity(torch.cat(sums))
        a = torch.linalg.vecdot(velocity, torch.cat(left))
        b = torch.linalg.vecdot(velocity, torch.cat(right))
        turned = torch.minimum(a, b).view(len(sums), -1) <= 0
        return turned.any(0).cpu().numpy()
