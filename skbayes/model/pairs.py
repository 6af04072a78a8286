"""Products of pairs of a row's numbers: what sums of outer products of outer products need."""

from __future__ import annotations

import torch
from torch import Tensor


def pairs(left: Tensor, right: Tensor, same: bool) -> Tensor:
    """Products of two numbers of every row, (pairs, n).

    Parameters
    ----------
    left : Tensor of shape (p, n) or (k, p, n)
        Numbers; those of k kinds are multiplied with their own kind only, and summed over it.
    right : Tensor of shape (q, n) or (k, q, n)
        Numbers.
    same : bool
        Whether both are the same: then only pairs on and above the diagonal are made, in the order
        of `torch.triu_indices`; else all p q of them.
    """
    if left.dim() == 3:
        if left.shape[0] == 1:
            return pairs(left[0], right[0], same)
        product = left.permute(2, 1, 0) @ right.permute(2, 0, 1)  # (n, p, q)
        if same:
            i, j = _upper(len(product[0]), left.device)
            return product[:, i, j].T
        return product.flatten(1).T
    if same:  # row by row of the triangle, which is several times faster than by index
        size, start = len(left), 0
        out = left.new_empty((size * (size + 1) // 2, left.shape[1]))
        for i in range(size):
            torch.mul(left[i], left[i:], out=out[start : start + size - i])
            start += size - i
        return out
    return (left[:, None] * right).flatten(0, 1)


def unpaired(block: Tensor, first, second) -> Tensor:
    """The matrix between two layers' weights from sums over pairs of inputs and of outputs."""
    a, b = first.fan_in + 1, second.fan_in + 1
    c, d = first.fan_out, second.fan_out
    if first is second:
        block = _square(_square(block, a).transpose(0, 1), c).transpose(0, 1)
    return block.reshape(a, b, c, d).permute(0, 2, 1, 3).reshape(a * c, b * d)


def paired_inputs(matrix: Tensor, first, second, same: bool) -> Tensor:
    """A block of a matrix by pairs of inputs, (pairs, c d), with all products of outputs.

    ``first`` and ``second`` are the layers' numbers of inputs and outputs, (a, c) and (b, d). With
    ``same``, pairs off the diagonal hold the sum of both orders.
    """
    (a, c), (b, d) = first, second
    block = matrix.reshape(a, c, b, d).permute(0, 2, 1, 3).reshape(a, b, c * d)
    if not same:
        return block.reshape(a * b, c * d)
    i, j = _upper(a, matrix.device)
    return block[i, j] + block[j, i] * (i != j)[:, None]


def paired(matrix: Tensor, first, second, same: bool) -> Tensor:
    """The same by pairs of outputs too: coefficients of the quadratic form of a symmetric matrix.

    Blocks off its diagonal count twice.
    """
    block = paired_inputs(matrix, first, second, same)
    if not same:
        return 2.0 * block
    c = first[1]
    k, m = _upper(c, matrix.device)
    block = block.view(-1, c, c)
    return block[:, k, m] + block[:, m, k] * (k != m)


def _square(upper: Tensor, size: int) -> Tensor:
    """Rows for all pairs from those for the pairs on and above the diagonal."""
    i, j = _upper(size, upper.device)
    place = torch.empty((size, size), dtype=torch.long, device=upper.device)
    place[i, j] = place[j, i] = torch.arange(len(i), device=upper.device)
    return upper[place.flatten()]


def _upper(size: int, device: torch.device) -> Tensor:
    return torch.triu_indices(size, size, device=device)
