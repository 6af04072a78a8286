"""What is found out about a torch module by running it on a few rows."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call

from skbayes.model.module_source import seeded


class Trial(NamedTuple):
    """One pass of a module."""

    outputs: Tensor
    """What it returned, (n, n_outputs)."""

    per_row: int
    """Numbers in the outputs of all its parts, for one row."""

    order: list[str]
    """Names of the parts that were watched, in the order in which they ran."""


def try_out(
    module: nn.Module, weights: dict[str, Tensor], X: Tensor, watched: list[str], alone: bool
) -> Trial:
    """Run a module once, and again to see whether it gives the same answer.

    Parameters
    ----------
    module : torch.nn.Module
        In eval mode.
    weights : dict of str to Tensor
        Its parameters.
    X : Tensor of shape (n, ...)
        Rows.
    watched : list of str
        Parts whose order is asked for.
    alone : bool
        Whether a row by itself must have the same outputs.

    Returns
    -------
    Trial

    Raises
    ------
    ValueError
        If the module fails, what it returns is not one row of numbers per row of X, or is not a
        function of that row and the weights.
    """
    name = type(module).__name__
    counts: list[int] = []
    order: list[str] = []
    hooks = [
        part.register_forward_hook(lambda _part, _args, out: counts.append(_count(out)))
        for part in module.modules()
        if not list(part.children())
    ]
    parts = dict(module.named_modules())
    for key in watched:
        hook = lambda _part, _args, key=key: order.append(key)  # noqa: E731
        hooks.append(parts[key].register_forward_pre_hook(hook))
    try:
        with torch.no_grad():
            outputs = functional_call(module, weights, (X,))
    except Exception as error:
        raise ValueError(
            f"module {name} cannot be applied to rows of X, of shape {tuple(X.shape)} and type "
            f"{X.dtype}: {error}"
        ) from error
    finally:
        for handle in hooks:
            handle.remove()
    if not isinstance(outputs, Tensor) or outputs.dim() not in (1, 2):
        what = tuple(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"module {name} must return a tensor of shape (n, n_outputs), but returns {what}."
        )
    if len(outputs) != len(X):
        raise ValueError(f"module {name} returns {len(outputs)} rows for {len(X)} rows of X.")
    with seeded(1), torch.no_grad():
        again = functional_call(module, weights, (X,))
    if not torch.equal(outputs, again):
        raise ValueError(
            f"module {name} gives two answers for the same weights and rows in eval mode; "
            "randomness is only allowed in dropout layers."
        )
    if alone:
        with torch.no_grad():
            first = functional_call(module, weights, (X[:1],))
        if first.shape != outputs[:1].shape or not torch.allclose(first, outputs[:1], rtol=1e-6):
            raise ValueError(
                f"module {name} returns something else for the first row of X by itself; rows must "
                "not see each other (is the first axis taken for another one?)."
            )
    per_row = max(1, sum(counts) // len(X), X[:1].numel(), outputs[:1].numel())
    return Trial(outputs if outputs.dim() == 2 else outputs[:, None], per_row, order)


def check_logits(module: nn.Module, weights: dict[str, Tensor], X: Tensor, outputs: Tensor) -> None:
    """Raise where the outputs (n, n_outputs) of a module are probabilities already.

    Several outputs that sum to one are. So is what stays between 0 and 1 however large the
    weights are, and a single output that is always one, as a softmax of one column is.
    """
    several = outputs.shape[1] > 1
    found = several and bool((outputs >= 0).all() and ((outputs.sum(1) - 1).abs() < 1e-5).all())
    if not found:
        tried = [outputs]
        with torch.no_grad():
            for scale in (-1.0, 3.0, -3.0, 10.0):
                scaled = {key: value * scale for key, value in weights.items()}
                tried.append(functional_call(module, scaled, (X,)).reshape(outputs.shape))
        values = torch.stack(tried)
        varies = bool((values.std(0) > 1e-9).any())
        found = varies and bool(((values >= 0) & (values <= 1)).all())
        found = found or bool((values == 1).all())
    if found:
        raise ValueError(
            f"module {type(module).__name__} returns probabilities (they sum to one, or stay "
            "between 0 and 1); return logits: leave out the softmax or sigmoid at its end."
        )


def _count(value) -> int:
    """Numbers in what a part returns."""
    if isinstance(value, Tensor):
        return value.numel()
    return sum(map(_count, value)) if isinstance(value, list | tuple) else 0
