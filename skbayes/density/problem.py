"""The rows of a fit as models take them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from skbayes.density.columns import Columns
from skbayes.density.rows import Split

START_ROWS = 20_000
COMPARE_ROWS = 2000


@dataclass
class Problem:
    """Rows, their columns and their split, as models take them."""

    X: Any
    weight: np.ndarray | None
    columns: Columns
    split: Split
    device: torch.device
    dtype: torch.dtype
    on_disk: bool

    def __post_init__(self) -> None:
        kind = np.float64 if self.dtype == torch.float64 else np.float32
        self._all = None if self.on_disk else self.columns.transform(self.X, kind)
        self._resident: Tensor | None = None
        self.held_out = self.any_rows(self.split.held_out)

    def tensor(self, index: np.ndarray) -> Tensor:
        """Values of rows of X."""
        V = self.columns.transform(self.X[index])
        return torch.as_tensor(V, dtype=self.dtype, device=self.device)

    def rows(self, i: np.ndarray) -> Tensor:
        """Values of training rows."""
        return self.any_rows(self.split.index(i))

    def any_rows(self, i: np.ndarray) -> Tensor:
        """Values of rows, held out or not."""
        if self._all is None:
            return self.tensor(i)
        if self._resident is None:
            self._resident = torch.as_tensor(self._all, dtype=self.dtype, device=self.device)
        return self._resident[torch.as_tensor(i, device=self.device)]

    def weights_of(self, index: np.ndarray) -> np.ndarray | None:
        """Weights of rows of X."""
        return None if self.weight is None else self.weight[index]

    @property
    def train_weight(self) -> np.ndarray | None:
        """Weights of the training rows."""
        if self.weight is None:
            return None
        return self.weight[self.split.index(np.arange(self.split.n))]

    @property
    def compare_weight(self) -> np.ndarray | None:
        """Weights of the held-out rows that models are compared on, None where all are equal."""
        if self.weight is None:
            return None
        return self.weight[self.split.held_out][:COMPARE_ROWS]

    def mean(self, values: np.ndarray) -> float:
        """Weighted mean over those rows."""
        return float(np.average(values, weights=self.compare_weight))

    def some_index(self) -> np.ndarray:
        """At most 20,000 training rows, as rows of X."""
        n = self.split.n
        i = np.arange(n)
        if n > START_ROWS:
            i = np.unique(np.linspace(0, n - 1, START_ROWS).astype(np.int64))
        return self.split.index(i)

    def some_values(self) -> np.ndarray:
        """Values of those rows."""
        return self.columns.transform(self.X[self.some_index()])
