"""Whether chains agree: R-hat and effective sample sizes of predictions, and sampler statistics."""

from __future__ import annotations

import numpy as np
from arviz_stats.base import array_stats

from skbayes.posterior import Posterior

R_HAT_LIMIT = 1.1
E_BFMI_LIMIT = 0.3


def diagnose(posterior: Posterior, predictions: np.ndarray) -> dict[str, float]:
    """Summarise convergence in the space of predictions.

    Weights of a network are not identified (units can be swapped, signs turned), so that R-hat of
    single weights says little; what chains must agree on is what they predict.

    Parameters
    ----------
    posterior : Posterior
        Draws and their statistics.
    predictions : ndarray of shape (n_chains, n_draws, k)
        Predictions of every draw at k points.

    Returns
    -------
    dict of str to float
        ``r_hat_max``, ``r_hat_median`` (rank-normalised split R-hat), ``ess_bulk_min``,
        ``ess_bulk_median``, ``ess_tail_min`` over the predictions; ``r_hat_log_prob``,
        ``ess_log_prob``; ``acceptance`` (mean), ``n_divergences``, ``e_bfmi`` (the least over
        chains). Empty where every chain is a single independent draw.
    """
    out: dict[str, float] = {}
    stats = posterior.stats
    if posterior.independent or posterior.n_draws < 4:
        return out
    # a prediction that never varies (a constant feature of the data) has no R-hat
    varies = np.ptp(predictions, axis=(0, 1)) > 0
    values = np.asarray(predictions[:, :, varies], dtype=np.float64)
    if values.shape[2]:
        r_hat = array_stats.rhat(values, chain_axis=0, draw_axis=1)
        bulk = array_stats.ess(values, chain_axis=0, draw_axis=1, method="bulk")
        tail = array_stats.ess(values, chain_axis=0, draw_axis=1, method="tail", prob=(0.05, 0.95))
        out["r_hat_max"] = float(np.max(r_hat))
        out["r_hat_median"] = float(np.median(r_hat))
        out["ess_bulk_min"] = float(np.min(bulk))
        out["ess_bulk_median"] = float(np.median(bulk))
        out["ess_tail_min"] = float(np.min(tail))
    if "log_prob" in stats:
        log_prob = stats["log_prob"]
        out["r_hat_log_prob"] = float(array_stats.rhat(log_prob, chain_axis=0, draw_axis=1))
        out["ess_log_prob"] = float(array_stats.ess(log_prob, chain_axis=0, draw_axis=1))
    if "acceptance" in stats:
        out["acceptance"] = float(stats["acceptance"].mean())
    if "diverging" in stats:
        out["n_divergences"] = int(stats["diverging"].sum())
    if "energy" in stats:
        out["e_bfmi"] = float(e_bfmi(stats["energy"]).min())
    return out


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
        out.append(
            f"The chains do not agree: the largest R-hat of the predictions is {r_hat:.2f} "
            f"(over {R_HAT_LIMIT}). Raise n_draws or n_warmup, or make the model smaller."
        )
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
            "target_accept, or take a prior that keeps the weights smaller."
        )
    fraction = diagnostics.get("e_bfmi", 1.0)
    if fraction < E_BFMI_LIMIT:
        out.append(
            f"The energy mixes slowly (E-BFMI {fraction:.2f}, below {E_BFMI_LIMIT}): the posterior "
            "has funnels or heavy tails. Raise n_draws, fix the noise, or take a normal prior."
        )
    return out
