"""The Laplace approximation: a normal posterior around a mode, and the evidence of the model."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from skbayes.inference.base import Method, to_numpy
from skbayes.inference.evidence import Local, around, tuned_noise, tuned_prior
from skbayes.inference.head import Head
from skbayes.inference.laplace_posterior import LaplacePosterior
from skbayes.inference.map import MAP
from skbayes.inference.optimizers import Climb, climb
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal
from skbayes.model.tangent import moving

MOST_FULL = 1500  # weights up to which "auto" takes the whole matrix
WIDER = 4.0  # of the prior scale, where the tuning begins a second time
MOST_WORK = 1 << 26  # weights times rows up to which L-BFGS on all rows follows a change


class Laplace(Method):
    r"""Laplace approximation, MacKay (1992).

    The posterior of the weights w is taken as normal around a mode,

    .. math:: p(w \mid D) \approx N(\hat w, S), \qquad S^{-1} = H + P, \qquad
              H = \sum_i J_i^T \Lambda_i J_i,

    with P the prior's precision and H the generalised Gauss-Newton matrix: J is the Jacobian of
    the network's outputs by the weights, Lambda the Fisher information of the outputs. It has
    no second derivatives of the network and is never negative; MacKay took the whole Hessian.
    H may be the whole matrix, a Kronecker product for each layer (Ritter, Botev and Barber, 2018),
    or a diagonal, and may be that of the last layer alone, the others being held at the mode. The
    variants, and how they are used after training, are those of Daxberger et al. (2021), section 2.

    **Predictions.** H is the exact Hessian of the network that is linear in its weights around
    the mode, so the functions are those of that network (``predictive="linear"``; Immer, Korzepa
    and Bauer, 2021), whose predictive distribution in a row is known without draws. With
    ``predictive="sampling"`` the network itself is evaluated at draws of its weights, as MacKay
    would; draws from S then often leave the region where the network fits at all.

    **Evidence.** The integral of likelihood times prior over the weights is

    .. math:: \log p(D) \approx \log p(D \mid \hat w) + \log p(\hat w) + \tfrac{d}{2} \log 2 \pi
              - \tfrac12 \log \det (H + P),

    with d the number of weights that move. It is exact for a linear network with normal noise and
    whole H. The estimator has it as ``log_evidence_``, in the units of y. With ``tune_prior`` the
    prior's precision is that of largest evidence. For P times a factor
    :math:`\alpha_g` in the weights g of a layer, or of all layers, the steps are MacKay's,

    .. math:: \gamma_g = \sum_{j \in g} (1 - \alpha_g P_{jj} S_{jj}), \qquad
              \alpha_g \leftarrow \gamma_g \Big/ \sum_{j \in g} P_{jj} \hat w_j^2,

    gamma being the number of weights that the data determine. Learned noise is found in the same
    way: sigma is where

    .. math:: -\frac{1}{2 \sigma^2} \sum_i e_i^2 - (n - \gamma) \log \sigma + \log p(\sigma)

    is largest, with e the residuals, n the number of rows and gamma the sum of all; this parameter
    (unconstrained) is given a normal posterior with the curvature there, which enters draws and
    evidence. After each round of such steps the mode is climbed to again, and H is computed anew.

    Weights of rows multiply the terms of H; where rows are weighted, n is the sum of the weights.

    Parameters
    ----------
    hessian : {"auto", "full", "kron", "diag"}, default="auto"
        Form of H: the whole matrix, whose time is n d^2 and memory 8 d^2 bytes; for each layer a
        Kronecker product; a diagonal. "auto" is "full" up to 1,500 weights that move and "kron"
        beyond.
    subset : {"all", "last_layer"}, default="all"
        Weights that move. For the last layer alone, what it receives is kept for all rows: as many
        numbers as the rows have, were they that wide.
    predictive : {"linear", "sampling"}, default="linear"
        See above.
    tune_prior : {"layer", "global", None}, default="layer"
        Whether every layer's prior scale is multiplied by a factor of its own, found by the
        evidence; or all by the same factor; or none, the prior being what it is.
    max_rounds : int, default=20
        Rounds of tuning at most.
    tol : float, default=0.1
        Tuning ends when a round changes the log evidence by less, in nats.
    n_draws : int, default=200
        Draws from the normal posterior.
    init : Method or None, default=None
        What finds the first mode, such as ``MAP(n_restarts=5)`` or ``Ensemble()``; of several
        points the best is taken. None is ``MAP(tol=1e-9)``. While it runs, noise that is to be
        learned has the standard deviation of y: a network then begins simple and grows as the
        noise falls. With ``tune_prior`` it runs twice, with the prior and with one four times as
        wide, and what ends at the larger evidence is kept: there are local maxima, such as that
        of a network that is nearly linear. (For the last layer alone it runs once: the evidence
        says nothing of the layers below, and would choose those that overfit.)
    """

    needs = frozenset({"gauss_newton"})

    def __init__(
        self,
        hessian="auto",
        subset="all",
        predictive="linear",
        tune_prior="layer",
        max_rounds=20,
        tol=0.1,
        n_draws=200,
        init=None,
    ):
        self.hessian = hessian
        self.subset = subset
        self.predictive = predictive
        self.tune_prior = tune_prior
        self.max_rounds = max_rounds
        self.tol = tol
        self.n_draws = n_draws
        self.init = init

    def chain_count(self):
        """One: all draws are around a single mode."""
        return 1

    def check(self):
        """Check the parameters, see `Method.check`."""
        self._choice("hessian", ("auto", "full", "kron", "diag"))
        self._choice("subset", ("all", "last_layer"))
        self._choice("predictive", ("linear", "sampling"))
        self._choice("tune_prior", ("layer", "global", None))
        self._require("max_rounds", "n_draws")
        self._positive("tol")
        self._check_init()

    def run(self, log_posterior, theta0, streams, on_step=None):
        """Find the mode and the curvature there, see `Method.run`."""
        prior = log_posterior.prior
        if prior is not None and not isinstance(prior, BoundNormal):
            raise ValueError(
                "method='laplace' needs a prior that is normal with a fixed scale: pass "
                "prior=NormalPrior(...) or None."
            )
        if log_posterior.layout.n_buffers:
            raise ValueError(
                "method='laplace' needs outputs that are a function of one row: put the module's "
                "batch normalisation in eval mode, or take another normalisation."
            )
        hessian = self._form(log_posterior)
        last_layer = self.subset == "last_layer"
        learned = getattr(log_posterior.likelihood, "learned", False)
        tunes = prior is not None and (self.tune_prior is not None or learned)
        best: Local | None = None
        losses: list[np.ndarray] = []
        messages: list[str] = []
        stopped = False
        for number, wider in enumerate(self._starts(theta0)):
            start = prior if prior is None else prior.with_scales(prior.scales * wider)
            own = streams.child(number)
            theta, loss, hints, stopped = self._first(log_posterior, start, theta0, own, on_step)
            held = 0.0  # of the loss, what the tuning of a head leaves as it is
            seen = None
            if last_layer:
                assert start is not None
                head = Head(log_posterior, theta)
                held = head.held(start)
                seen = partial(_show, log_posterior, head)
                found = around(head.log_posterior, head.theta, head.prior(start), hessian)
            else:
                found = around(log_posterior, theta, start, hessian)
            if tunes and not stopped:
                found, more, hint, stopped = self._tune(found, hessian, own, on_step, seen)
                loss, hints = loss + [part - held for part in more], hint
            if best is None or found.log_evidence > best.log_evidence:
                best = head.whole(found) if last_layer else found
                losses, messages = loss, hints
            if stopped:
                messages = [
                    *messages,
                    "The fit was interrupted; the draws are around the best point it reached.",
                ]
                break
        assert best is not None
        if getattr(log_posterior.likelihood, "heteroscedastic", False):
            messages = [
                *messages,
                "A single mode with heteroscedastic noise passes close to some rows with next to "
                "no noise there, and the normal around it is too narrow: set noise='learned'.",
            ]
        return self._posterior(best, losses, messages, stopped, streams)

    def _tune(self, found: Local, hessian, streams, on_step, seen=None):
        """Rounds of tuning and climbing: the best that was met, losses, messages, interrupted.

        ``seen`` is called with what every round finds.
        """
        log_posterior, best = found.log_posterior, found
        learned = getattr(log_posterior.likelihood, "learned", False)
        losses: list[np.ndarray] = []
        change = np.inf
        try:
            for number in range(self.max_rounds):
                before, prior = found, found.target.prior
                if self.tune_prior is not None:
                    prior = tuned_prior(before, self._groups(before))
                theta = tuned_noise(before) if learned else before.theta
                climbed = self._climb(before, log_posterior.given(prior), theta, streams)
                losses.append(climbed.losses)
                found = around(log_posterior, climbed.theta, prior, hessian)
                if found.log_evidence > best.log_evidence:
                    best = found
                if seen is not None:
                    seen(found)
                if on_step is not None:
                    text = f"log evidence {found.log_evidence:.1f}"
                    on_step(number + 1, self.max_rounds, text)
                change = abs(found.log_evidence - before.log_evidence)
                if climbed.interrupted:
                    return best, losses, [], True
                if change < self.tol:
                    break
        except KeyboardInterrupt:
            return best, losses, [], True
        messages = []
        if not change < self.tol:
            messages.append(
                f"The evidence still changed by {change:.2g} nats in the last of "
                f"{self.max_rounds} rounds; raise max_rounds or tol."
            )
        return best, losses, messages, False

    def _starts(self, theta0) -> tuple[float, ...]:
        """Factors on the prior scales, from each of which the tuning begins."""
        once = self.tune_prior is None or theta0 is not None or self.subset == "last_layer"
        return (1.0,) if once else (1.0, WIDER)

    def _form(self, log_posterior) -> str:
        """What ``hessian="auto"`` stands for, and whether the network allows it."""
        network = log_posterior.network
        each_layer = isinstance(network, MLPNetwork) or self.subset == "last_layer"
        if self.hessian != "auto":
            if self.hessian == "kron" and not each_layer:
                raise ValueError(
                    f"Laplace: hessian='kron' needs a multilayer perceptron; for a "
                    f"{type(network).__name__} take subset='last_layer', or hessian='diag'."
                )
            return self.hessian
        n_moving = log_posterior.n_params
        if self.subset == "last_layer":
            layer = network.layers[-1].joint
            n_moving = layer.stop - layer.start
        if n_moving <= MOST_FULL:
            return "full"
        return "kron" if each_layer else "diag"

    def _first(self, log_posterior, prior, theta0, streams, on_step):
        """The first mode, with learned noise held where it begins: theta, losses, messages."""
        losses: list[np.ndarray] = []
        if theta0 is not None:
            return theta0, losses, [], False
        init = MAP(tol=1e-9) if self.init is None else self.init
        target = log_posterior if prior is None else log_posterior.given(prior)
        own = streams.child(0, init.chain_count())
        first = None
        if getattr(log_posterior.likelihood, "learned", False):
            first = target.initial(own)
            target.layout.split(first)[1].fill_(log_posterior.likelihood.raw_of(1.0))
        start = init.run(target, first, own, on_step)
        theta = torch.as_tensor(start.last_state).to(target.device, target.dtype)
        best = int(torch.argmax(target(theta)))
        if start.loss_curve is not None:
            curve = start.loss_curve
            losses.append(curve[best : best + 1] if len(curve) > 1 else curve)
        return theta[best : best + 1], losses, list(start.messages), start.interrupted

    def _groups(self, found: Local) -> list[slice]:
        """Slices of the moving weights whose prior scales share a factor."""
        if self.tune_prior == "global":
            return [slice(0, found.curvature.n_params)]
        return found.curvature.spans()

    def _climb(self, found: Local, target, theta, streams) -> Climb:
        """The mode for a new prior and noise."""
        if self.subset == "last_layer":
            return _newton(found, target, theta)
        n_params = target.n_params
        small = n_params * target.n <= MOST_WORK and n_params <= 5000
        linear = target.network.is_linear
        return climb(
            target,
            theta,
            streams,
            solver="lbfgs" if small else "adam",
            learning_rate=None if small else 0.003,
            max_epochs=100 if small else None,
            steps=300,
            tol=1e-9,
            gain=0.0 if linear else 0.1 * self.tol,
        )

    def _posterior(self, found: Local, losses, messages, stopped, streams) -> LaplacePosterior:
        """Draws from the normal posterior."""
        last_layer = self.subset == "last_layer"
        d, k = found.curvature.n_params, len(found.noise_precision)
        normal = streams.normal(
            self.n_draws, d + k, dtype=torch.float64, device=found.theta.device
        )[0]
        draws = found.theta.double().repeat(self.n_draws, 1)
        layout = found.target.layout
        moved = moving(layout.network, last_layer=True) if last_layer else slice(0, d)
        draws[:, moved] += found.covariance.spread(normal[:, :d])
        if k:
            noise = layout.split(draws)[1]
            noise += normal[:, d:] * found.noise_precision.rsqrt()
        adapted = {"n_determined": to_numpy(found.determined().sum())}
        if found.target.prior is not None:
            adapted["prior_scale"] = found.target.prior.scales
        return LaplacePosterior(
            to_numpy(draws.to(found.theta.dtype))[None],
            layout,
            mode=to_numpy(found.theta[0]),
            covariance=found.covariance,
            last_layer=last_layer,
            predictive=self.predictive,
            log_evidence=found.log_evidence,
            adapted=adapted,
            loss_curve=np.concatenate(losses, 1) if losses else None,
            messages=messages,
            interrupted=stopped,
        )


def _show(log_posterior, head: Head, found: Local) -> None:
    """Tell the log posterior of the whole what is found for its head."""
    log_posterior.seen(head.whole(found).theta)


def _newton(found: Local, target, theta: Tensor, n_steps: int = 5) -> Climb:
    """Newton's steps in a linear model, halved until they climb.

    The covariance of the round before takes the place of the new one. It ends where a step promises
    less than the rounding of the log posterior shows.
    """
    moved = found.curvature.moving
    value, grad = target.value_and_grad(theta)
    least = max(1e-6, torch.finfo(theta.dtype).eps * abs(float(value)))
    losses = []
    for _ in range(n_steps):
        slope = grad[:, moved].double()
        step = found.covariance.times(slope)
        if 0.5 * float((slope * step).sum()) < least:
            break
        size, new_value = 1.0, value
        while size > 1e-3:
            trial = theta.clone()
            trial[:, moved] += (size * step).to(theta.dtype)
            new_value, new_grad = target.value_and_grad(trial)
            if bool(new_value > value):
                break
            size *= 0.5
        if not bool(new_value > value):
            break
        gain = float(new_value - value)
        theta, value, grad = trial, new_value, new_grad.clone()
        losses.append(float(-value / target.total_weight))
        if gain < least:
            break
    return Climb(theta, np.array(losses)[None], [], False)
