"""Statistics that batch normalisation needs, over rows that come in blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Seen(Exception):
    """Ends a pass as soon as the layer of interest has its input."""


class Moments:
    """Mean and variance per channel of what a layer is given, over blocks of rows.

    A forward pre-hook, which ends the pass by raising `Seen`.
    """

    def __init__(self, n_channels: int, device: torch.device) -> None:
        self.count = 0
        self.mean = torch.zeros(n_channels, dtype=torch.float64, device=device)
        self.square = torch.zeros_like(self.mean)  # sum of squared deviations

    def __call__(self, _module: nn.Module, args: tuple) -> None:
        """Add the rows of one block."""
        x = args[0].detach().double().transpose(0, 1).flatten(1)  # (channels, values)
        n, mean = x.shape[1], x.mean(1)
        # Chan, Golub and LeVeque (1983): sums of squares of two sets
        gap = mean - self.mean
        total = self.count + n
        self.square += ((x - mean[:, None]) ** 2).sum(1) + gap**2 * (self.count * n / total)
        self.mean += gap * (n / total)
        self.count = total
        raise Seen

    def result(self) -> tuple[Tensor, Tensor]:
        """Mean and variance (divided by n) of all blocks."""
        return self.mean, self.square / self.count
