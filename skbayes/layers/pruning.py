"""Which weights a network keeps: masks from dropout rates, and how much of a network they remove.

A mask is a boolean array of the shape of a weight, True where the weight is kept. The masks of a
network are a dict from the weight's name (as in ``named_parameters``) to its mask, in the order of
the layers.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from numbers import Real

import numpy as np
import torch
from torch import nn

Masks = dict[str, np.ndarray]

BY_LOG_ALPHA = "log alpha is compared with (infinity removes nothing)"
"""For `check_threshold`."""


def local_masks(
    log_alpha: Mapping[str, np.ndarray], threshold: float | Mapping[str, float] = 3.0
) -> Masks:
    r"""Keep each weight whose own dropout rate is below the threshold.

    With q(w) = N(mu, alpha mu^2), a weight of large alpha is noise around zero, and is removed:

    .. math:: \text{keep} \iff \log \alpha < \text{threshold}

    (Molchanov, Ashukha and Vetrov, 2017, who take 3: a binary dropout rate alpha / (1 + alpha)
    of 0.95.)

    Parameters
    ----------
    log_alpha : mapping of str to array
        Of each weight.
    threshold : float or mapping of str to float, default=3.0
        Of log alpha; a mapping has one for each weight.

    Returns
    -------
    dict of str to ndarray of bool

    Raises
    ------
    ValueError
        If the threshold is no number, or a weight has none.
    """
    own = _by_weight(threshold, list(log_alpha))
    return {name: np.asarray(values) < own[name] for name, values in log_alpha.items()}


def check_threshold(threshold, what: str) -> None:
    """Raise unless a threshold is a number, perhaps infinite, that something can be held against.

    Parameters
    ----------
    threshold : object
        Whatever it is.
    what : str
        The message's end: "it must be a number that ...".
    """
    good = isinstance(threshold, Real) and not isinstance(threshold, bool | np.bool_)
    if not good or np.isnan(threshold):
        raise ValueError(
            f"threshold={threshold!r} is not allowed; it must be a number that {what}."
        )


def _by_weight(threshold, names: list[str]) -> dict[str, float]:
    """The threshold of each weight, from one for all or one for each."""
    if not isinstance(threshold, Mapping):
        check_threshold(threshold, BY_LOG_ALPHA)
        return dict.fromkeys(names, threshold)
    if set(threshold) != set(names):
        raise ValueError(
            f"threshold={threshold!r} is not allowed; it must be a number, or have one for each of "
            f"{names}."
        )
    for value in threshold.values():
        check_threshold(value, BY_LOG_ALPHA)
    return dict(threshold)


def group_masks(
    shapes: Mapping[str, Sequence[int]],
    inputs: Mapping[str, np.ndarray] | None = None,
    outputs: Mapping[str, np.ndarray] | None = None,
) -> Masks:
    """Masks of a chain of layers from the units and channels that are kept.

    A weight is kept if the unit it comes from and the unit it goes to are kept. A unit between two
    layers is kept if the layer before it (its ``outputs``) and the layer after it (its ``inputs``)
    both keep it, as Louizos, Ullrich and Welling (2017) mask a layer by its own inputs and those
    of the next. Where a flattened convolution meets a linear layer, a channel is kept if any of
    its positions is.

    Parameters
    ----------
    shapes : mapping of str to tuple of int
        Of the weights, (n_out, n_in) or (n_out, n_in, ...), in the order of the layers.
    inputs, outputs : mapping of str to array of bool, optional
        Kept inputs (n_in,) and outputs (n_out,) of a weight; a name that is not there keeps all.

    Returns
    -------
    dict of str to ndarray of bool

    Raises
    ------
    ValueError
        If a length does not fit a weight, or one layer does not fit the next.
    """
    names = list(shapes)
    into = {n: _units(n, "inputs", inputs, shapes[n][1]) for n in names}
    out = {n: _units(n, "outputs", outputs, shapes[n][0]) for n in names}
    for before, after in zip(names[:-1], names[1:], strict=True):
        block, rest = divmod(shapes[after][1], shapes[before][0])
        if rest or not block:
            raise ValueError(
                f"{before!r} has {shapes[before][0]} outputs, which do not fit the "
                f"{shapes[after][1]} inputs of {after!r}."
            )
        into[after] &= np.repeat(out[before], block)
        out[before] &= into[after].reshape(-1, block).any(1)
    masks = {}
    for n in names:
        pair = out[n][:, None] & into[n]
        trailing = (1,) * (len(shapes[n]) - 2)
        masks[n] = np.broadcast_to(pair.reshape(*pair.shape, *trailing), tuple(shapes[n])).copy()
    return masks


def bias_masks(masks: Mapping[str, np.ndarray]) -> Masks:
    """Masks of the biases: kept where the unit has a kept weight going in; the last layer's all.

    The unit of any other bias is a constant, which the biases of the next layer take over. Add
    them to the masks where biases are to be counted; published figures leave biases out.

    Parameters
    ----------
    masks : mapping of str to ndarray of bool
        Of the weights, each called ``*.weight``, in the order of the layers.

    Returns
    -------
    dict of str to ndarray of bool
        With ``*.bias`` in place of ``*.weight``.
    """
    out: Masks = {
        name.removesuffix("weight") + "bias": np.any(mask.reshape(len(mask), -1), axis=1)
        for name, mask in masks.items()
    }
    if out:
        out[list(out)[-1]][:] = True
    return out


def sparsity(masks: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Fraction of each weight's entries that is removed, and of all of them under "all".

    Raises
    ------
    ValueError
        If there are no entries.
    """
    n = sum(mask.size for mask in masks.values())
    if not n:
        raise ValueError(f"masks={masks!r} is not allowed; there must be an entry.")
    out = {name: float(1.0 - mask.mean()) for name, mask in masks.items()}
    return {**out, "all": 1.0 - sum(int(mask.sum()) for mask in masks.values()) / n}


def apply_masks(module: nn.Module, masks: Mapping[str, np.ndarray]) -> nn.Module:
    """A copy of the module with the entries that are not kept at zero.

    Parameters
    ----------
    module : torch.nn.Module
        Is not changed.
    masks : mapping of str to ndarray of bool
        By the names of ``module.named_parameters()``.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    ValueError
        If a name or a shape is not the module's.
    """
    module = copy.deepcopy(module)
    parameters = dict(module.named_parameters())
    for name, mask in masks.items():
        if name not in parameters:
            raise ValueError(f"{name!r} is no parameter; there are {list(parameters)}.")
        weight = parameters[name]
        if tuple(weight.shape) != np.shape(mask):
            raise ValueError(
                f"The mask of {name!r} has shape {np.shape(mask)}, "
                f"the weight {tuple(weight.shape)}."
            )
        with torch.no_grad():
            kept = torch.as_tensor(np.asarray(mask, dtype=bool), device=weight.device)
            weight.masked_fill_(~kept, 0.0)
    return module


def _units(name: str, side: str, kept: Mapping[str, np.ndarray] | None, n: int) -> np.ndarray:
    """Kept units of a side of a layer, (n,)."""
    if kept is None or name not in kept:
        return np.ones(n, dtype=bool)
    units = np.array(kept[name], dtype=bool)
    if units.shape != (n,):
        raise ValueError(f"{side}[{name!r}] has shape {units.shape}, but must have ({n},).")
    return units
