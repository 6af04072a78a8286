"""Monte Carlo dropout: units are dropped in training and in prediction alike."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Method, to_numpy
from skbayes.inference.masks import HIGHEST, LOWEST, Masks, to_eta, to_rate
from skbayes.inference.optimizers import Adam
from skbayes.posterior import Posterior

GRID = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4)  # rates that "search" tries
N_MASKS = 8  # masks in a step, each for its own part of the minibatch
STEPS = 4000  # where max_epochs is None
N_SPLITS = 3  # trainings of every rate in a search, each with its own held-out rows
SEARCH_DRAWS = 50  # masks that the held-out density is averaged over
LEARNING_PART = 2 / 3  # of the steps; the rest trains the weights with the rates as they are


class Dropout(Method):
    r"""Monte Carlo dropout, Gal and Ghahramani (2016).

    The approximate posterior is that of weights whose units carry random factors (see
    `skbayes.inference.masks.Masks`): with theta the means, m a draw of the factors and
    :math:`m \circ \theta` the weights with the rows of dropped units scaled,

    .. math:: \max_\theta \ \mathbb{E}_m \Big[ \sum_i \log p(y_i \mid x_i, m \circ \theta)
              + \log p(m \circ \theta) \Big] + \sum_l K_l H(p_l).

    This is the bound of their section 3 and appendix: the divergence of the factors' distribution
    from the prior is the expected log prior less the entropy H of the factors (K_l units in layer
    l), which is constant unless the rates are learned. With a normal prior of deviation s the
    second term is a weight decay,

    .. math:: \mathbb{E}_m \log p(m \circ \theta) = -\frac{1}{2 s^2} \sum_j
              \frac{\theta_j^2}{1 - p} + \text{const}

    for the weights that leave dropped units, which in the paper's :math:`M = \theta / (1 - p)` is
    their :math:`(1 - p)\, l^2 \lVert M \rVert^2 / 2` with length scale l = 1 / s. Their relation
    between decay, length scale and precision of the noise needs no tuning here: prior and noise
    are the model's own.

    Predictions average over ``n_draws`` masks, each the same for all rows, as a function drawn
    from the posterior is. In training, a minibatch is cut into eight parts, each with a mask of
    its own; the gradient is unbiased.

    With ``kind="gaussian"`` the factors are 1 + sqrt(alpha) times normal noise (Srivastava et al.,
    2014, section 10; Wang and Manning, 2013, get to it by the central limit theorem). The factors
    then have the prior of Kingma, Salimans and Welling (2015, sections 3.2 and 3.3),
    p(log abs(m)) constant, and theta is a point with the model's prior:

    .. math:: \max_\theta \ \mathbb{E}_m \sum_i \log p(y_i \mid x_i, m \circ \theta)
              + \log p(\theta) - \sum_l K_l \, \text{KL}(\alpha_l).

    Biases, noise and hyper-parameters carry no factors. A network without hidden units has nothing
    to drop unless ``input_rate`` says so, and its answer is then the mode.

    Parameters
    ----------
    rate : float, "search", "learned" or sequence of float, default=0.05
        Share of the hidden units that are dropped (of gaussian noise: p, where alpha is
        p / (1 - p)). A sequence is searched: every rate is trained on three random parts of the
        rows, all at once, and the one with the highest log density of the rest is trained anew on
        all rows; "search" tries 0.005, 0.01, 0.02, 0.05, 0.1, 0.2 and 0.4. "learned" climbs the
        bound over a rate for each layer, between 0.001 and 0.5, with the concrete relaxation of
        Gal, Hron and Kendall (2017) at their temperature of 0.1 where the factors are binary;
        after two thirds of the steps the rates are held, and the weights are trained with them.
    kind : {"binary", "gaussian"}, default="binary"
        Factors of the units.
    input_rate : float or "same", default=0.0
        Rate for the inputs; "same" treats them as another layer of hidden units.
    n_draws : int, default=100
        Masks per network that are kept as draws.
    n_members : int, default=1
        Networks, each from its own start; more than one is an ensemble of dropout networks.
    learning_rate : float, default=0.01
        Of Adam, on the mean loss per row, falling to zero as a half cosine.
    batch_size : int or None, default=None
        Rows per step; None is 256, or all rows up to that number.
    max_epochs : int or None, default=None
        Passes over the data; None is as many as 4,000 steps take, at least 20.
    validation_fraction : float, default=0.2
        Share of the rows that a search holds out.
    """

    needs = frozenset({"layers"})

    def __init__(
        self,
        rate=0.05,
        kind="binary",
        input_rate=0.0,
        n_draws=100,
        n_members=1,
        learning_rate=0.01,
        batch_size=None,
        max_epochs=None,
        validation_fraction=0.2,
    ):
        self.rate = rate
        self.kind = kind
        self.input_rate = input_rate
        self.n_draws = n_draws
        self.n_members = n_members
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_epochs = max_epochs
        self.validation_fraction = validation_fraction

    def chain_count(self):
        """Number of networks."""
        return self.n_members

    def check(self):
        """Check the parameters, see `Method.check`."""
        rate = self.rate
        if not isinstance(rate, str) and isinstance(rate, Sequence | np.ndarray):
            good = len(rate) > 0 and all(_is_rate(value) for value in rate)
        else:
            good = _is_rate(rate) or (isinstance(rate, str) and rate in ("search", "learned"))
        if not good:
            raise ValueError(
                f"Dropout: rate={rate!r} is not allowed; it must be a number in [0, 1), a sequence "
                "of them to search, 'search' or 'learned'."
            )
        if not _is_rate(self.input_rate) and not (
            isinstance(self.input_rate, str) and self.input_rate == "same"
        ):
            raise ValueError(
                f"Dropout: input_rate={self.input_rate!r} is not allowed; it must be a number in "
                "[0, 1), or 'same'."
            )
        self._choice("kind", ("binary", "gaussian"))
        self._require("n_draws", "n_members")
        self._positive("learning_rate")
        self._require("batch_size", "max_epochs", or_in=(None,))
        self._require("validation_fraction", kind=Real, low=0, high=0.9, above=True)

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Train, search or learn the rates, and draw masks, see `Method.run`."""
        same = isinstance(self.input_rate, str)
        masks = Masks(log_posterior, self.kind, with_inputs=same or self.input_rate > 0)
        theta = log_posterior.initial(streams) if theta0 is None else theta0
        learn = isinstance(self.rate, str) and self.rate == "learned"
        grid = GRID if isinstance(self.rate, str) else self.rate
        adapted: dict[str, np.ndarray] = {}
        messages: list[str] = []
        fit = None
        if not masks.n_units:
            grid, learn = 0.0, False
            messages.append(
                "There is nothing to drop: the network has no hidden units, and input_rate is 0. "
                "The answer is the mode; set hidden_layer_sizes or input_rate."
            )
        elif learn:
            grid = 0.1  # where the rates start
        elif not isinstance(grid, Real):
            fit, score = self._search(log_posterior, theta0, streams, masks, grid, on_step)
            adapted.update(searched_rate=np.array(grid, dtype=np.float64), searched_score=score)
            grid = grid[int(np.argmax(score))]
        if fit is None or not fit.message:
            eta = self._eta(masks, [grid], theta).expand(len(theta), -1)
            fit = self._train(log_posterior, theta, eta, streams, masks, on_step, learn=learn)
        adapted["rate"] = to_rate(fit.eta)
        if fit.message:
            messages.append(fit.message)
        n_draws = self.n_draws if masks.n_units else 1
        noise = masks.noise(streams.child(1), n_draws, theta.dtype, theta.device)
        draws = fit.theta[:, None] * masks.spread(masks.units(noise, fit.eta))
        return Posterior(
            to_numpy(draws),
            log_posterior.layout,
            adapted=adapted,
            last_state=to_numpy(fit.theta),
            loss_curve=fit.losses,
            independent=True,
            messages=messages,
            interrupted=bool(fit.message),
        )

    def _eta(self, masks: Masks, rates, like: Tensor) -> Tensor:
        """Log odds (n_rates, n_layers) of the rates, the inputs' own among them."""
        rate = np.repeat(np.asarray(rates, dtype=np.float64)[:, None], len(masks.sizes), 1)
        if masks.with_inputs and not isinstance(self.input_rate, str):
            rate[:, 0] = self.input_rate
        return torch.as_tensor(to_eta(rate), dtype=like.dtype, device=like.device)

    def _train(
        self, log_posterior, theta, eta, streams, masks, on_step, learn=False, rows=None
    ) -> _Fit:
        """Climb the bound from ``theta`` by Adam.

        There may be several trainings to a stream of random numbers, which then share minibatches
        and noise: theta is (n_chains * n_copies, n_params), the copies of a chain side by side.
        ``rows`` (n_chains, n_rows) are those to train on, if not all.
        """
        n = log_posterior.n if rows is None else rows.shape[1]
        batch = min(self.batch_size or 256, n)
        k = min(N_MASKS, batch) if masks.n_units else 1
        batch -= batch % k
        per_epoch = n // batch  # the rows that are left over change from epoch to epoch
        max_epochs = self.max_epochs or max(20, math.ceil(STEPS / per_epoch))
        total = per_epoch * max_epochs
        n_copies = len(theta) // streams.n_chains
        theta, eta = theta.clone(), eta.clone()
        learned = torch.ones_like(eta)
        if masks.with_inputs and not isinstance(self.input_rate, str):
            learned[:, 0] = 0.0
        optimiser, of_eta = Adam(theta), Adam(eta)
        bound = _Bound(log_posterior, masks)
        losses: list[np.ndarray] = []
        try:
            for epoch in range(max_epochs):
                order = streams.permutation(n)
                if rows is not None:
                    order = np.take_along_axis(rows, order, 1)
                loss = torch.zeros(len(theta), dtype=torch.float64, device=theta.device)
                for i in range(per_epoch):
                    t = epoch * per_epoch + i
                    index = order[:, i * batch : (i + 1) * batch].reshape(-1, 1, k, batch // k)
                    index = index.repeat(n_copies, 1).reshape(-1, batch // k)
                    noise = masks.noise(streams, k, theta.dtype, theta.device)
                    noise = noise.repeat_interleave(n_copies, 0)
                    learning = learn and t < LEARNING_PART * total
                    value, grad, by_eta = bound(index, theta, eta, noise, learning)
                    scale = -1.0 / log_posterior.total_weight
                    step = 0.5 * self.learning_rate * (1.0 + math.cos(math.pi * t / total))
                    optimiser.step(theta, grad.mul_(scale), step)
                    if by_eta is not None:
                        of_eta.step(eta, by_eta.mul_(scale) * learned, step)
                        low, high = to_eta(np.array([LOWEST, HIGHEST]))
                        eta = torch.where(learned > 0, eta.clamp(low, high), eta)
                    loss += scale * value
                losses.append(to_numpy(loss) / per_epoch)
                if on_step is not None:
                    text = f"dropout, loss {np.mean(losses[-1]):.4g}"
                    on_step(epoch + 1, max_epochs, text)
        except KeyboardInterrupt:
            if not losses:
                raise  # nothing was gained yet
            message = (
                f"Training was interrupted in epoch {len(losses) + 1} of {max_epochs}; the "
                "networks stay as they are."
            )
            return _Fit(theta, eta, np.stack(losses, 1), message)
        return _Fit(theta, eta, np.stack(losses, 1), "")

    def _search(
        self, log_posterior, theta0, streams, masks, grid, on_step
    ) -> tuple[_Fit, np.ndarray]:
        """Train every rate on parts of the rows; mean log density of the rest, (n_rates,).

        After Ctrl-C the fit has networks of the best rate so far.
        """
        n, n_rates = log_posterior.n, len(grid)
        n_held = min(math.ceil(self.validation_fraction * n), n - 1)
        if n_held < 1:
            raise ValueError(f"Dropout: rate={self.rate!r} needs two rows to search; got {n}.")
        own = streams.child(0, N_SPLITS)
        if theta0 is None:
            theta = log_posterior.initial(own)
        else:
            theta = theta0[np.arange(N_SPLITS) % len(theta0)]
        order = own.permutation(n)
        held = log_posterior.rows(order[:, :n_held])
        theta = theta.repeat_interleave(n_rates, 0)
        eta = self._eta(masks, grid, theta).repeat(N_SPLITS, 1)
        fit = self._train(log_posterior, theta, eta, own, masks, on_step, rows=order[:, n_held:])
        logs = theta.new_full((n_rates, N_SPLITS, n_held), -math.inf)
        for _ in range(SEARCH_DRAWS):
            noise = masks.noise(own, 1, theta.dtype, theta.device).repeat_interleave(n_rates, 0)
            drawn = fit.theta * masks.spread(masks.units(noise, fit.eta))[:, 0]
            for r in range(n_rates):
                found = held.pointwise(drawn[r::n_rates], weighted=False)
                logs[r] = torch.logaddexp(logs[r], found)
        logs -= math.log(SEARCH_DRAWS)
        weight = torch.ones_like(logs[0]) if held.weight is None else held.weight
        score = to_numpy((logs * weight).sum((1, 2)) / weight.expand_as(logs[0]).sum())
        best = int(np.argmax(score))
        chosen = np.arange(self.n_members) % N_SPLITS * n_rates + best
        fit = _Fit(fit.theta[chosen], fit.eta[chosen], fit.losses[chosen], fit.message)
        return fit, score


class _Fit(NamedTuple):
    """What training reached."""

    theta: Tensor  # (n_chains, n_params)
    eta: Tensor  # (n_chains, n_layers)
    losses: np.ndarray  # (n_chains, n_epochs)
    message: str  # empty unless Ctrl-C ended it


class _Bound:
    """The bound of `Dropout` on a minibatch, with its gradients."""

    def __init__(self, log_posterior, masks: Masks) -> None:
        self.masks = masks
        self.prior = None
        if masks.kind == "gaussian" and masks.n_units:
            # the prior is that of theta, not that of theta times the factors
            self.prior, self.layout = log_posterior.prior, log_posterior.layout
            log_posterior = copy.copy(log_posterior)
            log_posterior.prior = _FlatPrior(self.prior)
        self.target = log_posterior

    def __call__(
        self, index: np.ndarray, theta: Tensor, eta: Tensor, noise: Tensor, learning: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Value, and gradients by theta and, if ``learning``, by eta.

        ``index`` is (n_chains * n_masks, rows), ``noise`` (n_chains, n_masks, n_units).
        """
        masks, shape = self.masks, (len(theta), noise.shape[1], -1)
        units = masks.units(noise, eta, relaxed=learning)
        factors = masks.spread(units)  # (n_chains, n_masks, n_params)
        each = (theta[:, None] * factors).view(-1, theta.shape[1])
        value, grad = self.target.minibatch(index).value_and_grad(each)
        value, grad = value.view(shape[:2]).mean(1), grad.view(shape)
        by_eta = None
        if learning:
            by_eta = masks.by_layer(grad * theta[:, None], masks.slope(units, eta)).mean(1)
            bonus, more = masks.bonus_and_grad(eta)
            value, by_eta = value + bonus, by_eta + more
        grad = (grad * factors).mean(1)
        if self.prior is not None:
            net, params, hyper = self.layout.split(theta)
            more, by_net, by_hyper = self.prior.log_prob_and_grad(net, hyper)
            value = value + more
            grad += torch.cat([by_net, torch.zeros_like(params), by_hyper], 1)
        return value, grad, by_eta


class _FlatPrior:
    """A prior's map from theta to weights, with a constant density."""

    def __init__(self, prior) -> None:
        self.weights, self.pullback, self.n_hyper = prior.weights, prior.pullback, prior.n_hyper

    def log_prob_and_grad(self, net, hyper, plus=None, with_value=True):
        grad = torch.zeros_like(net) if plus is None else plus
        zero = torch.zeros(len(net), dtype=torch.float64, device=net.device)
        return zero, grad, torch.zeros_like(hyper)


def _is_rate(value) -> bool:
    number = isinstance(value, Real) and not isinstance(value, bool | np.bool_)
    return number and 0 <= value < 1
