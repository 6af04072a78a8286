r"""How many bits a pruned network needs, when its weights are stored as exactly as they are known.

A weight whose posterior is wide need not be stored with many digits. Louizos, Ullrich and Welling
(2017) take the number of bits of a layer from the posterior variances of its weights. With the
spacing of a number with t bits after the point,

.. math:: u(t) = \tfrac12 2^{1 - t} = 2^{-t},

a weight of variance v has the t bits for which 2 v < u(t), at most 23. This is the convention of
their code (their figures are made with it), which compares the *variance* with the spacing, where
the standard deviation has the unit of the weight: it keeps about twice the bits that the latter
would. A layer has the mean over its weights, rounded up. Removed weights are left out of the mean;
their variance is not that of anything stored. To this come one bit for the sign and

.. math:: \lceil \log_2(\log_2 \max |w| + 1) + 1 \rceil

bits for the size, which all layers share (none if no weight exceeds one half).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from skbayes.counts import check_count

MOST_BITS = 23
"""Bits after the point of a float32."""


def fraction_bits(variance: np.ndarray, kept: np.ndarray) -> int:
    """Bits after the point for a layer, from the variances of the weights that are kept.

    Parameters
    ----------
    variance : ndarray
        Posterior variances.
    kept : ndarray of bool
        Mask of the same shape.

    Returns
    -------
    int
        0 if no weight is kept.
    """
    kept_variance = np.asarray(variance, dtype=np.float64)[np.asarray(kept, dtype=bool)]
    if not kept_variance.size:
        return 0
    spacing = 0.5 ** np.arange(1, MOST_BITS + 1)  # u(t), falling
    # entries of the falling u(t) that exceed 2 v
    n = MOST_BITS - np.searchsorted(spacing[::-1], 2.0 * kept_variance, side="right")
    return int(np.ceil(n.mean()))


def size_bits(largest: float) -> int:
    """Bits for the size of the largest weight."""
    log_size = np.log2(largest) + 1.0 if largest > 0.5 else 0.0
    return max(int(np.ceil(np.log2(log_size) + 1.0)), 0) if log_size > 0.0 else 0


def bit_precision(
    mean: Mapping[str, np.ndarray],
    variance: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
) -> dict[str, int]:
    """Bits of a weight of each layer: sign, size and the bits after the point.

    Parameters
    ----------
    mean, variance : mapping of str to ndarray
        Of the posterior, by the names of the masks.
    masks : mapping of str to ndarray of bool
        The weights that are kept.

    Returns
    -------
    dict of str to int

    Examples
    --------
    >>> import numpy as np
    >>> mean, mask = {"w": np.array([0.9, 0.0])}, {"w": np.array([True, False])}
    >>> bit_precision(mean, {"w": np.array([2.0**-6, 1e-9])}, mask)  # 2 v = 2**-5 < u(1) .. u(4)
    {'w': 6}
    """
    largest = max((np.abs(mean[n][masks[n]]).max(initial=0.0) for n in masks), default=0.0)
    shared = 1 + size_bits(float(largest))
    return {n: shared + fraction_bits(variance[n], masks[n]) for n in masks}


def round_to_bits(
    mean: Mapping[str, np.ndarray],
    variance: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """The weights as `bit_precision` would store them: rounded to the spacing, removed ones zero.

    Parameters
    ----------
    mean, variance, masks : mapping of str to ndarray
        As in `bit_precision`.

    Returns
    -------
    dict of str to ndarray
    """
    out = {}
    for name, mask in masks.items():
        spacing = 0.5 ** fraction_bits(variance[name], mask)
        rounded = np.floor(mean[name] / spacing + 0.5) * spacing
        out[name] = np.where(mask, rounded, 0.0).astype(np.asarray(mean[name]).dtype)
    return out


def compression_ratio(
    masks: Mapping[str, np.ndarray],
    bits: Mapping[str, int] | None = None,
    *,
    full_bits: int = 32,
    index_bits: int = 0,
) -> float:
    r"""Bits of the whole network by bits of what is kept of it.

    .. math:: \frac{\sum_l b_0 n_l}{\sum_l b_l k_l + \text{index}}

    with n entries of which k are kept, at b bits each. **Biases** are counted if the masks have
    them (`skbayes.layers.pruning.bias_masks`) and not otherwise: the figures of Molchanov et al.
    (2017) and of Louizos et al. (2017) are over weights alone. **Where** the kept weights are is
    not counted with ``index_bits=0``. So do Molchanov et al. for single weights. For units and
    channels that are removed whole (Louizos et al.) what is kept is a small dense matrix, and the
    indices of its rows and columns are next to nothing. With ``index_bits`` b > 0 each kept entry
    also holds the distance from the one before it in b bits, and a distance above 2^b is bridged
    by stored zeros, as Han, Mao and Dally (2016) do with 5 bits for linear layers and 8
    for convolutions.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool
        Entries that are kept.
    bits : mapping of str to int, optional
        Bits of a kept entry, as from `bit_precision`; ``full_bits`` for a name that is not there
        and by default, which is the ratio by pruning alone.
    full_bits : int, default=32
        Bits of an entry of the whole network.
    index_bits : int, default=0
        Bits of a distance.

    Returns
    -------
    float
        Infinite if nothing is kept.

    Raises
    ------
    ValueError
        If ``index_bits`` is no integer >= 0, or ``full_bits`` none >= 1.

    Examples
    --------
    >>> import numpy as np
    >>> mask = {"w": np.array([1, 0, 0, 0, 0, 1, 0, 0], dtype=bool)}
    >>> compression_ratio(mask)  # 8 entries, 2 kept
    4.0
    >>> compression_ratio(mask, {"w": 8})
    16.0
    >>> compression_ratio(mask, {"w": 8}, index_bits=2)  # distances 1 and 5: one zero between
    8.533333333333333
    """
    check_count("index_bits", index_bits, 0)
    check_count("full_bits", full_bits)
    bits = {} if bits is None else bits
    whole = kept = 0
    for name, mask in masks.items():
        whole += full_bits * np.size(mask)
        stored = int(np.sum(mask)) + (_fillers(mask, index_bits) if index_bits else 0)
        kept += stored * (bits.get(name, full_bits) + index_bits)
    return whole / kept if kept else float("inf")


def _fillers(mask: np.ndarray, index_bits: int) -> int:
    """Zeros that are stored because a distance does not fit into its bits."""
    at = np.flatnonzero(mask)
    distance = np.diff(at, prepend=-1)
    return int(((distance - 1) >> index_bits).sum())
