"""Torch modules that tests share."""

import torch
from torch import nn


class Small(nn.Sequential):
    """A perceptron that takes its sizes from the data."""

    def __init__(self, n_inputs=1, n_outputs=1, width=5):
        super().__init__(nn.Linear(n_inputs, width), nn.Tanh(), nn.Linear(width, n_outputs))


class Conv(nn.Module):
    """Images (n, 1, 6, 6); ``norm`` is "batch", "group" or None."""

    def __init__(self, n_outputs=3, width=2, norm=None, dropout=0.0):
        super().__init__()
        self.first = nn.Conv2d(1, width, 3)
        self.norm = {"batch": nn.BatchNorm2d(width), "group": nn.GroupNorm(1, width)}.get(
            norm, nn.Identity()
        )
        self.second = nn.Conv2d(width, width, 3, groups=width)
        self.last_norm = nn.BatchNorm1d(4 * width) if norm == "batch" else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(4 * width, n_outputs)

    def forward(self, x):
        z = self.second(torch.tanh(self.norm(self.first(x))))
        return self.out(self.dropout(torch.tanh(self.last_norm(z.flatten(1)))))


class Branches(nn.Module):
    """A forward pass that depends on values, which vmap cannot do."""

    def __init__(self, n_inputs=3, n_outputs=1):
        super().__init__()
        self.a, self.b = nn.Linear(n_inputs, n_outputs), nn.Linear(n_inputs, n_outputs)

    def forward(self, x):
        return self.a(x) if float(self.a.weight.detach().sum()) > 0 else self.b(x) * 2


class Tied(nn.Module):
    """A shared weight, a frozen part with a random buffer, and a sequence."""

    def __init__(self, n_inputs=4, n_outputs=2):
        super().__init__()
        self.one, self.two = nn.Linear(n_inputs, n_inputs), nn.Linear(n_inputs, n_inputs)
        self.two.weight = self.one.weight
        self.fixed = nn.Linear(n_inputs, n_inputs).requires_grad_(False)
        self.register_buffer("shift", torch.randn(n_inputs))
        self.read = nn.GRU(n_inputs, 3, batch_first=True)
        self.out = nn.Linear(3, n_outputs)

    def forward(self, x):
        z = self.two(torch.tanh(self.one(x))) + self.fixed(x) + self.shift
        return self.out(self.read(z[:, None])[0][:, -1])
