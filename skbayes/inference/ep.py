"""Expectation propagation and assumed-density filtering with factorised normal weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Method, to_numpy
from skbayes.model.factors import block_factor
from skbayes.model.likelihoods import Normal
from skbayes.model.moments import output_moments
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal
from skbayes.posterior import Posterior

SITE_BYTES = 1 << 32  # that the sites of mode="ep" may take
BLOCK_NUMBERS = 1 << 22  # that one layer's covariances may have
MOST_LINEAR, MOST_DEEP = 256, 64  # rows of a block
BLOCKS = 32  # that small data are cut into, for a network


class EP(Method):
    r"""Expectation propagation, assumed-density filtering, probabilistic backpropagation.

    The posterior is approximated by independent normals, one for each weight, in natural
    parameters a product of the prior and of one normal site for each block b of rows,

    .. math:: q(\theta) = \prod_j N(\theta_j; m_j, v_j) \propto p(\theta) \prod_b t_b(\theta).

    A block is taken in by leaving its site out, :math:`q_{-b} \propto q / t_b`, and matching the
    means and variances of :math:`q_{-b}(\theta) \prod_{i \in b} p(y_i \mid x_i, \theta)`, which
    follow from the derivatives of its normaliser (Minka, 2001; Hernandez-Lobato and Adams, 2015,
    section 3):

    .. math:: Z = \int q_{-b}(\theta) \prod_{i \in b} p(y_i \mid x_i, \theta)\, d\theta, \quad
              m' = m + v \frac{\partial \log Z}{\partial m}, \quad
              v' = v - v^2 \Big[ \Big( \frac{\partial \log Z}{\partial m} \Big)^2
              - 2 \frac{\partial \log Z}{\partial v} \Big].

    Z is found by sending means and variances forward through the network, layer by layer, and its
    derivatives by going back (`skbayes.model.moments`, `skbayes.model.factors`). With
    ``batch_size=1`` this is probabilistic backpropagation (the paper with rectified linear units
    and normal noise; Ghosh, Delle Fave and Yedidia, 2016, with classes). Here a block may have
    several rows, whose outputs are then correlated, because they come from the same weights. So a
    block is taken in as a whole rather than row by row, which loses less, and there are fewer
    sites to keep. For a linear network with normal noise and all rows in one block, as it is up to
    256 rows, means and variances are those of the exact posterior; where its columns are
    orthogonal (and centred, if there is a bias), that posterior is factorised, and q is exact.
    With more blocks the means of a linear network are still exact where EP converges, but the
    variances are not.

    Departures from the papers: the prior is that of the estimator, not learned, and being normal
    it is in q from the start, exactly. Learned noise is a part of theta with a normal factor of its
    own, matched by quadrature, in place of a gamma factor on the precision. All activations and
    likelihoods of the package are covered, by one-dimensional quadrature. An update that would
    make a variance negative is refused, as in the paper; one that would make a variance larger
    than it was before the block is made without changing the variance, because sites of negative
    precision made EP diverge on networks.

    Computations are in float64 whatever the dtype of the estimator.

    Parameters
    ----------
    mode : {"ep", "sep", "adf"}, default="ep"
        "ep" keeps a site for each block and visits the blocks until nothing changes; memory for
        2 n_params numbers per block. "sep" is stochastic expectation propagation (Li,
        Hernandez-Lobato and Turner, 2015): all blocks share one site, so that memory does not grow
        with the rows; a site left out is then an average one. "adf" is assumed-density filtering:
        no sites; each block is multiplied into q and forgotten. The answer depends on the
        order of the rows, and each pass after the first counts the data once more.
    n_members : int, default=1
        Independent runs from other starts. A run finds one of the many modes of a network; several
        are mixed with equal weights.
    n_draws : int, default=100
        Draws from each q, by which predictions are made.
    batch_size : int or None, default=None
        Rows of a block (one less in some blocks where n is not a multiple). None is, for networks,
        n / 32, at least 1 and at most 64, since a network's weights can only find their places if
        the other blocks tell much; for linear networks 256. It is less where a layer's covariances
        would take more than 32 MB.
    max_epochs : int or None, default=None
        Passes over the data; None is 1 for "adf", 100 for the others. Hernandez-Lobato and Adams
        (2015) make 40 passes of "adf": means improve with each, and variances become too small.
    damping : float or None, default=None
        Share of the new site in the mixture of old and new (1 is no damping), in natural
        parameters; "adf" has none. None is 1 for linear networks and 0.5 for others.
    shuffle : bool, default=True
        Whether the rows are put into blocks at random ("adf" and "sep": anew in each epoch), or as
        they come.
    tol : float, default=0.01
        "ep" and "sep" have converged when in one epoch the means, in units of their deviations, and
        the logarithms of the variances change by less, as a root mean square over the weights.

    Notes
    -----
    ``posterior_.adapted`` holds ``mean`` and ``variance`` (n_members, n_params) of q, ``refused``,
    the share of updates refused in the last epoch, and with "ep" ``log_evidence`` (n_members,),
    EP's estimate of the log density of the data (Minka, 2001) in the units that the network sees.

    Means start at random to break the symmetry of hidden units, as in the paper. Here that is a
    factor of its own, which is spread over the sites and goes with them ("adf": is divided out in
    the end), so that the prior stays centred at zero.

    References
    ----------
    Minka (2001), Expectation propagation for approximate Bayesian inference, UAI.

    Soudry, Hubara and Meir (2014), Expectation backpropagation, NeurIPS.

    Hernandez-Lobato and Adams (2015), Probabilistic backpropagation for scalable learning of
    Bayesian neural networks, ICML.

    Li, Hernandez-Lobato and Turner (2015), Stochastic expectation propagation, NeurIPS.

    Ghosh, Delle Fave and Yedidia (2016), Assumed density filtering methods for learning Bayesian
    neural networks, AAAI.
    """

    needs = frozenset({"network"})

    def __init__(
        self,
        mode="ep",
        n_members=1,
        n_draws=100,
        batch_size=None,
        max_epochs=None,
        damping=None,
        shuffle=True,
        tol=0.01,
    ):
        self.mode = mode
        self.n_members = n_members
        self.n_draws = n_draws
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.damping = damping
        self.shuffle = shuffle
        self.tol = tol

    def chain_count(self):
        """Number of members."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("mode", ("ep", "sep", "adf"))
        self._choice("shuffle", (True, False))
        self._require("n_members", "n_draws")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._require("damping", kind=(int, float), low=0, high=1, above=True, or_in=(None,))
        self._require("tol", kind=(int, float), low=0)
        if self.mode == "adf" and self.damping is not None:
            raise ValueError(
                f"EP: damping={self.damping!r} is not allowed with mode='adf', which has no sites; "
                "it must be None."
            )

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Pass messages until they stay, see `Method.run`."""
        _check_target(log_posterior)
        state = _State(self, log_posterior, theta0, streams)
        max_epochs = self.max_epochs
        if max_epochs is None:
            max_epochs = 1 if self.mode == "adf" else 100
        losses: list[np.ndarray] = []
        messages: list[str] = []
        interrupted, changed = False, np.inf
        try:
            for epoch in range(max_epochs):
                mean, variance = state.moments()
                state.refused.zero_()
                log_z = torch.zeros(streams.n_chains, dtype=torch.float64)
                blocks = state.blocks if self.mode == "ep" and epoch else state.cut(self.shuffle)
                state.blocks = blocks
                for b in range(len(blocks)):
                    log_z += state.visit(b, blocks[b]).cpu()
                    if on_step is not None:
                        done, total = epoch * len(blocks) + b + 1, max_epochs * len(blocks)
                        on_step(done, total, f"epoch {epoch + 1}, change {changed:.2g}")
                losses.append(-log_z.numpy() / log_posterior.total_weight)
                changed = state.change(mean, variance)
                if self.mode != "adf" and changed <= self.tol:
                    break
        except KeyboardInterrupt:
            interrupted = True
            messages.append(
                f"EP was interrupted in epoch {epoch + 1}; the approximation stays as it is."
            )
        if self.mode != "adf" and not interrupted and changed > self.tol:
            messages.append(
                f"EP has not converged: in the last of {max_epochs} epochs the means and log "
                f"variances of the weights still changed by {changed:.2g} (root mean square, in "
                f"deviations; tol={self.tol:g}). Raise max_epochs, or lower damping (now "
                f"{state.damping:g})."
            )
        return state.posterior(losses, messages, interrupted)


def _check_target(log_posterior) -> None:
    """Raise a ValueError where the model is none that moments can be sent through."""
    if not isinstance(log_posterior.network, MLPNetwork):
        raise ValueError("EP needs a multilayer perceptron, BayesianMLP*.")
    if not isinstance(log_posterior.prior, BoundNormal):
        raise ValueError(
            "EP needs normal weights: the prior must be a NormalPrior, but is "
            f"{type(log_posterior.prior).__name__.removeprefix('Bound')}Prior."
        )


class _State:
    """q and its sites, in natural parameters (precision; precision times mean).

    Attributes
    ----------
    q, sites : Tensor of shape (2, n_chains, n_params) and (n_sites, 2, n_chains, n_params)
        n_sites is the number of blocks for "ep", 1 for "sep", 0 for "adf".
    refused : Tensor of shape (n_chains,)
        Share of updates refused in this epoch.
    """

    def __init__(self, method: EP, data, theta0: Tensor | None, streams) -> None:
        self.method, self.data, self.streams = method, data, streams
        self.linear = data.network.is_linear
        kw: dict[str, Any] = {"dtype": torch.float64, "device": data.device}
        n_chains, n_params = streams.n_chains, data.n_params
        precision = torch.empty(n_params, **kw)
        precision[: data.layout.n_network] = torch.as_tensor(data.prior.scales**-2.0, **kw)
        precision[data.layout.n_network :] = Normal.prior_scale**-2.0
        self.prior = torch.stack([precision, torch.zeros_like(precision)])[:, None]
        self.n_blocks, self.size = self._sizes()
        # where means start: a factor of its own, which the sites share until they are replaced
        start = torch.zeros((n_chains, n_params), **kw)
        if theta0 is not None:
            start = theta0.to(**kw)
        elif not self.linear:
            start = data.initial(streams).to(**kw)
        self.start = torch.stack([torch.zeros_like(start), start * precision])
        self.q = self.prior + self.start
        self.n_sites = {"ep": self.n_blocks, "sep": 1, "adf": 0}[method.mode]
        if 16 * self.n_sites * n_chains * n_params > SITE_BYTES:
            raise ValueError(
                f"EP: mode='ep' keeps a site for each of {self.n_blocks} blocks of rows, which "
                f"takes {16e-9 * self.n_sites * n_chains * n_params:.0f} GB here; set mode='sep', "
                "or a larger batch_size."
            )
        self.sites = (self.start / self.n_blocks).repeat(self.n_sites, 1, 1, 1)
        self.damping = 1.0
        if method.mode != "adf" and not (self.linear and method.damping is None):
            self.damping = 0.5 if method.damping is None else float(method.damping)
        self.refused = torch.zeros(n_chains, **kw)
        self.blocks: list[tuple[np.ndarray, Tensor]] = []
        self.row_sites: dict[int, Tensor] = {}  # by block, for likelihoods that have them

    def _sizes(self) -> tuple[int, int]:
        """Number of blocks, and rows of the largest."""
        data, n = self.data, self.data.n
        size = self.method.batch_size
        if size is None:
            size = MOST_LINEAR if self.linear else int(np.clip(n // BLOCKS, 1, MOST_DEEP))
            wide = max(layer.fan_out for layer in data.network.layers) * self.streams.n_chains
            for features in (data.network.n_inputs + 1, size):
                size = min(size, max(1, BLOCK_NUMBERS // (wide * features)))
        n_blocks = -(-n // min(size, n))
        return n_blocks, -(-n // n_blocks)

    def cut(self, shuffle: bool) -> list[tuple[np.ndarray, Tensor]]:
        """Blocks of rows: index (n_chains, size), and weights of the rows (n_chains, size).

        Sizes differ by one at most; what a block lacks is filled by a row of weight zero.
        """
        n, data, n_chains = self.data.n, self.data, self.streams.n_chains
        order = np.broadcast_to(np.arange(n), (n_chains, n))
        if shuffle:
            order = self.streams.permutation(n)
        out = []
        for rows in np.array_split(np.arange(n), self.n_blocks):
            index = order[:, rows]
            lacking = self.size - len(rows)
            index = np.concatenate([index, np.repeat(index[:, :1], lacking, 1)], 1)
            weight = torch.ones(index.shape, dtype=torch.float64, device=data.device)
            if data.weight is not None:
                flat = torch.as_tensor(index, device=data.device)
                weight = data.weight[0].double()[flat]
            weight[:, len(rows) :] = 0.0
            out.append((index, weight))
        return out

    def moments(self) -> tuple[Tensor, Tensor]:
        """Mean and variance of q, each (n_chains, n_params)."""
        return self.q[1] / self.q[0], 1.0 / self.q[0]

    def change(self, mean: Tensor, variance: Tensor) -> float:
        """Root mean square change from earlier moments, of the worst chain."""
        new, spread = self.moments()
        square = ((new - mean) ** 2 / spread).mean(1)
        square = torch.maximum(square, (spread / variance).log().square().mean(1))
        return float(square.max().sqrt())

    def visit(self, b: int, block: tuple[np.ndarray, Tensor]) -> Tensor:
        """Take block b in; returns its log Z, (n_chains,)."""
        which = b if self.n_sites > 1 else 0
        site = self.sites[which] if self.n_sites else torch.zeros_like(self.q)
        cavity = self.q - site
        log_z, mean, variance = self._tilt(cavity, b, block)
        spread = 1.0 / cavity[0]
        refused = ~((variance > 0.0) & torch.isfinite(mean) & torch.isfinite(variance))
        self.refused += refused.double().mean(1) / self.n_blocks
        # knowledge is not taken away, see the class
        variance = torch.minimum(variance, spread)
        new = torch.stack([1.0 / variance, mean / variance]) - cavity
        step = self.damping * torch.where(refused, 0.0, new - site)
        if self.n_sites:
            self.sites[which] += step / (self.n_blocks / self.n_sites)
        self.q = self.q + step
        return log_z

    def _tilt(self, cavity: Tensor, b: int, block) -> tuple[Tensor, Tensor, Tensor]:
        """Log Z, and moments of the cavity times the rows of a block."""
        k = self.data.layout.n_network
        mean, variance = cavity[1] / cavity[0], 1.0 / cavity[0]
        with torch.enable_grad():
            m, v = mean[:, :k].clone().requires_grad_(), variance[:, :k].clone().requires_grad_()
            outputs = output_moments(self.data.network, m, v, self._rows(block))
        known = self.row_sites.get(b)
        z, cov = outputs[0].detach(), outputs[1].detach()
        factor = self._factor(mean, variance, z, cov, block, known)
        if self.method.mode == "ep" and factor.sites is not None:
            self.row_sites[b] = factor.sites
        with torch.enable_grad():
            by_m, by_v = torch.autograd.grad(outputs, (m, v), (factor.by_mean, factor.by_cov))
        m, v = m.detach(), v.detach()
        mean = torch.cat([m + v * by_m, factor.params_mean], 1)
        variance = torch.cat([v - v * v * (by_m * by_m - 2.0 * by_v), factor.params_variance], 1)
        return factor.log_z, mean, variance

    def _rows(self, block) -> Tensor:
        return self.data.inputs.dense(torch.float64, block[0])

    def _factor(self, mean: Tensor, variance: Tensor, z: Tensor, cov: Tensor, block, sites=None):
        data, k = self.data, self.data.layout.n_network
        index = torch.as_tensor(block[0], device=data.device)
        y = data.y[0].double()[:, index].movedim(0, 1)  # (n_chains, n_targets, size)
        weight = block[1][:, None]
        params = mean[:, k:], variance[:, k:]
        return block_factor(data.likelihood, z, cov, y, weight, *params, sites)

    def _log_evidence(self) -> Tensor:
        """EP's log density of the data, (n_chains,)."""
        total = _log_normaliser(self.q) - _log_normaliser(self.prior)
        for b, (site, block) in enumerate(zip(self.sites, self.blocks, strict=True)):
            cavity = self.q - site
            mean, variance = cavity[1] / cavity[0], 1.0 / cavity[0]
            k = self.data.layout.n_network
            outputs = output_moments(
                self.data.network, mean[:, :k], variance[:, :k], self._rows(block)
            )
            total = (
                total + self._factor(mean, variance, *outputs, block, self.row_sites.get(b)).log_z
            )
            total = total + _log_normaliser(cavity) - _log_normaliser(self.q)
        return total

    def posterior(self, losses, messages: list[str], interrupted: bool) -> Posterior:
        """Draws from q."""
        if self.method.mode == "adf":
            self.q = self.q - self.start
        adapted = {"refused": to_numpy(self.refused)}
        if self.method.mode == "ep" and not interrupted:
            adapted["log_evidence"] = to_numpy(self._log_evidence())
        mean, variance = self.moments()
        adapted.update(mean=to_numpy(mean), variance=to_numpy(variance))
        kw: dict[str, Any] = {"dtype": torch.float64, "device": mean.device}
        z = self.streams.normal(self.method.n_draws, mean.shape[1], **kw)
        draws = mean[:, None] + variance.sqrt()[:, None] * z
        return Posterior(
            to_numpy(draws.to(self.data.dtype)),
            self.data.layout,
            adapted=adapted,
            last_state=to_numpy(mean.to(self.data.dtype)),
            loss_curve=np.stack(losses, 1) if losses else None,
            independent=True,
            messages=messages,
            interrupted=interrupted,
        )


def _log_normaliser(natural: Tensor) -> Tensor:
    """Logarithm of the integral of exp(nu x - tau x^2 / 2) less constants, summed over weights."""
    return 0.5 * (natural[1] ** 2 / natural[0] - natural[0].log()).sum(-1)
