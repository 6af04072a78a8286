"""Pruning by signal to noise: weights whose mean is small beside their deviation."""

from __future__ import annotations

import numpy as np

from skbayes.layers.pruning import check_threshold


def signal_to_noise(posterior) -> dict[str, np.ndarray]:
    r"""Mean over deviation of every weight, as a network's module has them.

    .. math:: |m_j| / s_j

    Parameters
    ----------
    posterior : Posterior
        Of `skbayes.inference.VI`, of a family with deviations.

    Returns
    -------
    dict of str to ndarray
        By the names of ``named_parameters()`` of the modules that ``posterior.to_modules()`` gives,
        and in their shapes; biases as well.

    Raises
    ------
    ValueError
        If the posterior has no deviations of weights.
    """
    adapted = getattr(posterior, "adapted", {})
    std = adapted.get("std")
    if std is None or "mean" not in adapted or not np.all(std > 0):
        raise ValueError(
            "signal_to_noise needs the posterior of VI, with family='mean_field', 'low_rank' or "
            "'full_rank'; this one has no means and deviations of weights."
        )
    network = posterior.layout.network
    # where a prior scales weights, means and deviations are scaled alike
    ratio = np.abs(adapted["mean"][: network.n_params]) / std[: network.n_params]
    # a module of the numbers of theta's entries tells where each of them goes
    numbers = np.arange(network.n_params + network.n_buffers, dtype=np.float64)
    module = network.to_module(numbers)
    return {
        name: ratio[values.detach().double().numpy().astype(np.int64)]
        for name, values in module.named_parameters()
        if values.requires_grad
    }


def signal_to_noise_masks(posterior, threshold: float = 0.83) -> dict[str, np.ndarray]:
    r"""Keep each weight whose signal to noise is above the threshold.

    Graves (2011) removes a weight where the density of q at zero, as a share of its
    peak, is over a threshold gamma:

    .. math:: \exp\!\left( -\frac{m_j^2}{2 s_j^2} \right) > \gamma
              \iff \frac{|m_j|}{s_j} < \sqrt{-2 \log \gamma};

    0.83 is the gamma of about 0.71. Biases are not removed.

    Parameters
    ----------
    posterior : Posterior
        See `signal_to_noise`.
    threshold : float, default=0.83
        Of the mean over the deviation.

    Returns
    -------
    dict of str to ndarray of bool
        True where a weight is kept, by the names of the weights (not of the biases), as the
        functions of `skbayes.layers.pruning` take masks.

    Raises
    ------
    ValueError
        If the posterior has no deviations of weights, or the threshold is no number.
    """
    check_threshold(threshold, "the mean over the deviation is compared with (zero keeps all)")
    return {
        name: ratio >= threshold
        for name, ratio in signal_to_noise(posterior).items()
        if ratio.ndim > 1
    }
