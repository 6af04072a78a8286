"""Which method ``method="auto"`` stands for."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from skbayes.inference.anchored import Anchored
from skbayes.inference.base import Method
from skbayes.inference.ensemble import Ensemble
from skbayes.inference.mclmc import MCLMC
from skbayes.inference.minibatches import on_disk
from skbayes.inference.sghmc import SGHMC
from skbayes.model.collapsed import why_not
from skbayes.model.likelihoods import Normal
from skbayes.model.network import MLPNetwork
from skbayes.model.priors import BoundNormal

MOST_ROWS = 10_000  # up to which chains take a minute or two on one core
WIDE = 64  # units, up to which the output layer is integrated out of that many rows in this time
WIDEST = 256  # units, up to which it is of fewer
MOST_PARAMS = 200_000  # of theta, each draw of which is kept
MANY_ROWS = 10_000  # from which 20 epochs leave networks far from their modes
MANY_PARAMS = 20_000  # of theta, up to which there is time for many steps
MEMBERS, STEPS = 6, 12_000  # then, fewer members and more steps of Adam
MEMBERS_OF_CLASSES, STEPS_OF_CLASSES = 8, 6_000
BATCH = 1024
SHORT_CHAINS = {"n_warmup": 60, "n_draws": 60, "n_leapfrog": 20, "energy_variance": 0.01}
MANY_COLUMNS = 5  # rows for each of them, up to which members are modes
GROWTH = 1.25  # of the rows, until which a warm start keeps the power that was found


class Choice(NamedTuple):
    """The method of a fit by ``method="auto"``, and what the next fit has to know of it."""

    method: Method
    """What was chosen."""

    n: int
    """Rows of the fit that ``power`` is from."""

    goes_on: bool = False
    """Whether the fit can begin where the last one stopped."""

    power: float | None = None
    """Of the likelihood, where it was found by rows that were left out."""

    @classmethod
    def of(cls, log_posterior, last: Choice | None) -> Choice:
        """The choice for data, after an earlier one, if there was.

        Other data may call for another method; chains or members then begin anew. The same one
        goes on, with the power that was found before, unless rows have become more or fewer by
        over a quarter since.
        """
        method, n = choose(log_posterior), log_posterior.n
        if last is None or type(method) is not type(last.method):
            return cls(method, n)
        if method.chain_count() != last.method.chain_count():
            return cls(method, n)
        if last.power is not None and last.n / GROWTH <= n <= GROWTH * last.n:
            return cls(method.set_params(likelihood_power=last.power), last.n, True, last.power)
        return cls(method, n, True)

    def after(self, posterior) -> Choice:
        """The same, once the fit is done."""
        power = posterior.adapted.get("likelihood_power")
        return self._replace(power=None if power is None else float(power))


def choose(log_posterior) -> Method:
    """The method that benchmarks show best for the data and the network.

    *Regression* with at most 10,000 rows and 200,000 parameters (20,000 with 10,000 rows), where
    the output layer can be integrated out (a single output, or noise that is the same for all rows;
    a `NormalPrior`; at most 256 units in the last hidden layer, and 64 with 10,000 rows: the time
    grows with the rows and the square of the units), where the network is linear, or where the
    noise is heteroscedastic, the prior a `NormalPrior` and the network no module of torch: short
    chains of `MCLMC`, four of 60 draws. They give by far the best held-out densities there. Other
    heteroscedastic regressions with at most 10,000 rows: an `Ensemble`, whose members stop early;
    modes, anchored or not, pass close to some rows with next to no noise.

    *Classification where X has a fifth as many features as rows, or more* (as many as rows, for a
    linear model, and the power of the likelihood is one there): an `Ensemble` of modes. The data
    say little of most weights; every anchored member keeps its draw from the prior in them, and
    the average of a few such members is drawn towards ignorance. A plain ensemble has no such
    noise. It is trained without held-out rows, since the prior already keeps it from overfitting
    and early stopping leaves its probabilities too cautious; the power of the likelihood is chosen
    by rows that members leave out. (In a regression, where the noise is inferred too, it would be
    overconfident.)

    *Rows that are not in memory*: `SGHMC`, since all others pass over all rows.

    *All else*: the `Anchored` ensemble, whose members are nearly draws from the posterior;
    networks of classes without weights of rows (``bootstrap=False``), which predict better, and
    with a power of the likelihood that is chosen by rows left out. With more than 10,000 rows and
    at most 20,000 parameters it has 6 members in place of 16, takes 12,000 steps of 1,024 rows, and
    has a larger rate (for classes at most 40,000, 8 and 6,000): there the members' spread is small,
    and what matters is that each of them fits well.

    Parameters
    ----------
    log_posterior : LogPosterior
        Of the training data.

    Returns
    -------
    Method
    """
    network, n = log_posterior.network, log_posterior.n
    if on_disk(log_posterior):
        return SGHMC()
    if not isinstance(log_posterior.likelihood, Normal):
        linear = network.is_linear
        if network.n_inputs * (1 if linear else MANY_COLUMNS) >= n:
            return Ensemble(
                validation_fraction=0.0,
                max_epochs=None,
                batch_size=200,
                likelihood_power=1.0 if linear else "held_out",
            )
        return _anchored(log_posterior)
    integrates = False
    if why_not(log_posterior) is None:
        units = network.layers[-1].fan_in
        integrates = units <= WIDEST and n * units**2 <= MOST_ROWS * WIDE**2
    varies = log_posterior.likelihood.heteroscedastic
    normal = isinstance(network, MLPNetwork) and isinstance(log_posterior.prior, BoundNormal)
    if (
        (network.is_linear or integrates or (varies and normal))
        and n <= MOST_ROWS
        and log_posterior.n_params <= min(MOST_PARAMS, MANY_PARAMS * MOST_ROWS / n)
    ):
        return MCLMC(**SHORT_CHAINS, marginalize=integrates)
    return Ensemble() if varies and n <= MANY_ROWS else _anchored(log_posterior)


def _anchored(log_posterior) -> Anchored:
    """An anchored ensemble with the members and epochs that suit the rows."""
    n = log_posterior.n
    kw: dict[str, Any] = {}
    classes = not isinstance(log_posterior.likelihood, Normal)
    if classes and not log_posterior.network.is_linear:
        kw = {"bootstrap": False, "likelihood_power": "held_out"}
    members, steps = (MEMBERS_OF_CLASSES, STEPS_OF_CLASSES) if classes else (MEMBERS, STEPS)
    if n <= MANY_ROWS or log_posterior.n_params * steps > MANY_PARAMS * STEPS:
        return Anchored(batch_size=256 if kw else None, **kw)
    epochs = max(20, math.ceil(steps * BATCH / n))
    return Anchored(members, learning_rate=0.03, batch_size=BATCH, max_epochs=epochs, **kw)
