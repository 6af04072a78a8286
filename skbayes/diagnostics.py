"""Whether chains mix and agree: R-hat and effective sample sizes of predictions, statistics."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from skbayes.effective_size import effective_size
from skbayes.posterior import Posterior

R_HAT_LIMIT = 1.1
E_BFMI_LIMIT = 0.3

FEWEST_DRAWS = 4
"""Of a chain, from which it can be compared with others."""

WITHIN_PARTS = 4
"""Parts that each chain is cut into, to compare it with itself."""


def diagnose(posterior: Posterior, predictions: np.ndarray) -> dict[str, float]:
    """Summarise convergence in the space of predictions.

    Weights of a network are not identified (units can be swapped, signs turned), so that R-hat of
    single weights says little; what chains must agree on is what they predict.

    A large R-hat has one of two causes, which two more numbers tell apart. ``r_hat_within_max``
    compares each chain with itself only: it is the largest R-hat of a single chain, cut into four
    parts and rank-normalised on its own, as the chain-wise R-hat of Sommer et al. (2024).
    ``r_hat_between_max`` compares the chains, not cut, with each other. Where the first is near
    one and the second is not, each chain mixes, but in a mode of its own.

    Parameters
    ----------
    posterior : Posterior
        Draws and their statistics.
    predictions : ndarray of shape (n_chains, n_draws, k)
        Predictions of every draw at k points.

    Returns
    -------
    dict of str to float
        ``r_hat_max``, ``r_hat_median`` (rank-normalised split R-hat), ``r_hat_within_max`` (from 8
        draws on), ``r_hat_between_max`` (from 2 chains on), ``ess_bulk_min``, ``ess_bulk_median``,
        ``ess_tail_min``, ``ess_within_min`` over the predictions; ``r_hat_log_prob``,
        ``ess_log_prob``; ``acceptance`` (mean), ``n_divergences``, ``e_bfmi`` (the least over
        chains). Empty where every chain is a single independent draw,
        and for fewer than four draws.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021), Rank-normalization, folding, and
    localization: an improved R-hat for assessing convergence of MCMC. Bayesian Analysis 16(2).

    Sommer, Wimmer, Papamarkou, Bothmann, Bischl and Ruegamer (2024), Connecting the Dots: Is
    Mode-Connectedness the Key to Feasible Sample-Based Inference in Bayesian Neural Networks?
    """
    out: dict[str, float] = {}
    stats = posterior.stats
    if posterior.independent or posterior.n_draws < FEWEST_DRAWS:
        return out
    # a prediction that never varies (a constant feature of the data) has no R-hat
    varies = np.ptp(predictions, axis=(0, 1)) > 0
    values = np.asarray(predictions[:, :, varies], dtype=np.float64)
    if values.shape[2]:
        r_hat = split_r_hat(values)
        out["r_hat_max"] = float(np.max(r_hat))
        out["r_hat_median"] = float(np.median(r_hat))
        if posterior.n_draws >= 2 * WITHIN_PARTS:
            out["r_hat_within_max"] = float(rank_r_hat(split_chains(values, WITHIN_PARTS)).max())
        if posterior.n_chains > 1:
            out["r_hat_between_max"] = float(rank_r_hat(values).max())
        bulk, tail = ess_bulk(values), ess_tail(values)
        out["ess_bulk_min"] = float(np.min(bulk))
        out["ess_bulk_median"] = float(np.median(bulk))
        out["ess_tail_min"] = float(np.min(tail))
        out["ess_within_min"] = float(np.min(ess_within(values)))
    if "log_prob" in stats:
        log_prob = stats["log_prob"]
        out["r_hat_log_prob"] = float(split_r_hat(log_prob[:, :, None])[0])
        out["ess_log_prob"] = float(ess_bulk(log_prob[:, :, None])[0])
    if "acceptance" in stats:
        out["acceptance"] = float(stats["acceptance"].mean())
    if "diverging" in stats:
        out["n_divergences"] = int(stats["diverging"].sum())
    if "energy" in stats:
        out["e_bfmi"] = float(e_bfmi(stats["energy"]).min())
    return out


def split_chains(values: np.ndarray, n_parts: int) -> np.ndarray:
    """Cut chains (n_chains, n_draws, k) into (n_chains, n_parts, n_draws // n_parts, k).

    Draws that are left over are taken off the beginning.
    """
    n_chains, n_draws, k = values.shape
    return values[:, n_draws % n_parts :].reshape(n_chains, n_parts, n_draws // n_parts, k)


def split_r_hat(values: np.ndarray) -> np.ndarray:
    """Rank-normalised split R-hat (k,) of chains (n_chains, n_draws, k).

    Vehtari et al. (2021): `rank_r_hat` of the chains' halves, so that it is defined for one chain
    too.
    """
    halves = split_chains(values, 2)
    return rank_r_hat(halves.reshape(-1, *halves.shape[2:]))


def rank_r_hat(values: np.ndarray) -> np.ndarray:
    r"""Rank-normalised R-hat of sequences as they are, not split.

    For m sequences of n draws z, replaced by the normal scores of their ranks among all of them,

    .. math:: \hat R = \sqrt{\frac{n - 1}{n} + \frac{B}{n W}}, \quad
              B = \frac{n}{m - 1} \sum_j (\bar z_j - \bar z)^2, \quad
              W = \frac{1}{m (n - 1)} \sum_{j,t} (z_{jt} - \bar z_j)^2,

    and the same for the distances to the median, which compares spreads; the larger of the two
    counts (Vehtari et al., 2021, equations 1 to 4 and section 4).

    Parameters
    ----------
    values : ndarray of shape (..., m, n, k)
        Sequences of k quantities. Leading axes are separate sets of sequences.

    Returns
    -------
    ndarray of shape (..., k)
        Infinite where nothing moves in any sequence.
    """
    pooled = values.reshape(*values.shape[:-3], -1, values.shape[-1])
    distance = np.abs(pooled - np.median(pooled, axis=-2, keepdims=True))
    bulk = _r_hat(normal_scores(pooled).reshape(values.shape))
    tail = _r_hat(normal_scores(distance).reshape(values.shape))
    # two values alone are equally far from their median: the second has nothing to say then
    out = np.fmax(bulk, tail)
    return np.where(np.isnan(out), np.inf, out)


def _r_hat(z: np.ndarray) -> np.ndarray:
    n = z.shape[-2]
    between = z.mean(-2).var(-2, ddof=1)  # B / n
    within = z.var(-2, ddof=1).mean(-2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.sqrt((n - 1) / n + between / within)


def normal_scores(values: np.ndarray) -> np.ndarray:
    r"""Scores of the ranks r along the last axis but one: :math:`\Phi^{-1}((r-3/8)/(n+1/4))`.

    Equal values have the mean of their ranks. It is most of the cost of `diagnose`: columns are
    sorted one by one where they lie together in memory, and scores looked up.
    """
    n = values.shape[-2]
    scores = ndtri((np.arange(2, 2 * n + 1) / 2 - 0.375) / (n + 0.25))  # of ranks 1, 1.5, ..., n
    columns = np.ascontiguousarray(np.swapaxes(values, -1, -2))
    out = np.empty(columns.shape)
    for x, z in zip(columns.reshape(-1, n), out.reshape(-1, n), strict=True):
        order = np.argsort(x)
        ordered = x[order]
        if np.isnan(ordered[-1]):
            z[:] = np.nan
            continue
        first = np.flatnonzero(np.append(True, ordered[1:] != ordered[:-1]))
        last = np.append(first[1:], n) - 1
        z[order] = np.repeat(scores[first + last], last - first + 1)
    return np.swapaxes(out, -1, -2)


def ess_bulk(values: np.ndarray) -> np.ndarray:
    """Bulk effective sample size (k,) of chains (n_chains, n_draws, k).

    Vehtari et al. (2021): that of the normal scores of the ranks of the chains' halves.
    """
    halves = split_chains(values, 2)
    shape = (-1, *halves.shape[2:])
    ranked = normal_scores(halves.reshape(-1, halves.shape[-1]))
    return effective_size(ranked.reshape(halves.shape).reshape(shape))


def ess_tail(values: np.ndarray) -> np.ndarray:
    """Tail effective sample size (k,) of chains (n_chains, n_draws, k).

    Vehtari et al. (2021): the smaller of those of the indicators of lying below the 5 % and the
    95 % quantile.
    """
    quantiles = np.quantile(values, (0.05, 0.95), axis=(0, 1))
    below = (split_chains(values <= quantile, 2) for quantile in quantiles)
    return np.minimum(*(effective_size(b.reshape(-1, *b.shape[2:])) for b in below))


def ess_within(values: np.ndarray) -> np.ndarray:
    """Effective draws of all chains together, whatever mode each of them sits in.

    Draws are replaced by the normal scores of their ranks in their own chain, which takes away
    where a chain sits and how far it spreads, and leaves how it mixes. The effective sample size of
    these sequences is the sum of the chains' own, with autocorrelations averaged over the chains.

    Parameters
    ----------
    values : ndarray of shape (n_chains, n_draws, k)
        Predictions.

    Returns
    -------
    ndarray of shape (k,)
    """
    # a chain that never moves has no autocorrelation, but no effective draws either
    return ess_bulk(normal_scores(values)) * (np.ptp(values, axis=1) > 0).mean(0)


def e_bfmi(energy: np.ndarray) -> np.ndarray:
    r"""Energy Bayesian fraction of missing information, per chain.

    .. math:: \frac{\sum_n (E_n - E_{n-1})^2}{\sum_n (E_n - \bar E)^2}

    Betancourt (2016), equation 6. Small values (below 0.3) say that momenta cannot move the energy
    as far as it varies, as in funnels and heavy tails.

    Parameters
    ----------
    energy : ndarray of shape (n_chains, n_draws)
        Energies at the start of the trajectories.

    Returns
    -------
    ndarray of shape (n_chains,)
    """
    centred = energy - energy.mean(1, keepdims=True)
    return (np.diff(energy, axis=1) ** 2).sum(1) / np.maximum((centred**2).sum(1), 1e-300)


def warnings_for(diagnostics: dict[str, float], n_chains: int) -> list[str]:
    """What a user should know of a run that has not converged, with what to change."""
    out = []
    r_hat = diagnostics.get("r_hat_max", 1.0)
    if r_hat > R_HAT_LIMIT:
        out.append(_r_hat_warning(r_hat, diagnostics, n_chains))
    r_hat = diagnostics.get("r_hat_log_prob", 1.0)
    if r_hat > R_HAT_LIMIT and not out:
        out.append(
            f"The chains do not agree: R-hat of the log posterior is {r_hat:.2f} "
            f"(over {R_HAT_LIMIT}). Raise n_draws or n_warmup."
        )
    divergences = diagnostics.get("n_divergences", 0)
    if divergences:
        out.append(
            f"{divergences} trajectories diverged: parts of the posterior may be left out. Raise "
            "target_accept (of MCLMC, lower energy_variance), or take a prior that keeps the "
            "weights smaller."
        )
    fraction = diagnostics.get("e_bfmi", 1.0)
    if fraction < E_BFMI_LIMIT:
        out.append(
            f"The energy mixes slowly (E-BFMI {fraction:.2f}, below {E_BFMI_LIMIT}): the posterior "
            "has funnels or heavy tails. Raise n_draws, fix the noise, or take a normal prior."
        )
    return out


def _r_hat_warning(r_hat: float, diagnostics: dict[str, float], n_chains: int) -> str:
    """Say whether the chains do not mix, or mix in modes of their own."""
    largest = f"the largest R-hat of the predictions is {r_hat:.2f} (over {R_HAT_LIMIT})"
    within = diagnostics.get("r_hat_within_max")
    if within is not None and within > R_HAT_LIMIT:
        chains = "The chain does" if n_chains == 1 else "The chains do"
        return (
            f"{chains} not mix: {largest}, and {within:.2f} within a chain. Raise n_draws or "
            "n_warmup, or make the model smaller."
        )
    if within is not None and n_chains > 1:
        return (
            f"The chains do not agree: {largest}. Each chain mixes (within a chain it is at most "
            f"{within:.2f}), but they sit in different modes, and more draws may not help. Use "
            "more chains and take their spread as part of the uncertainty, or change init, or "
            "make the model smaller."
        )
    return (
        f"The chains do not agree: {largest}. Raise n_draws or n_warmup, or make the model smaller."
    )
