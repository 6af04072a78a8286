"""Where a torch module comes from, so that it can be made anew without pickled tensors."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class ModuleSource:
    """A class and its parameters, or an instance, which is kept without its tensors.

    Parameters
    ----------
    module : type or torch.nn.Module
        A class that is called with ``params``, or an instance that is copied. With ``params`` an
        instance stands for its class, as in skorch.
    params : dict
        Arguments of the class.
    row_shape : tuple of int
        Shape of one row, with which lazy parameters are made.
    """

    def __init__(self, module, params: dict[str, Any], row_shape: tuple[int, ...]) -> None:
        self.row_shape = row_shape
        self.is_class = isinstance(module, type) or bool(params)
        self.kind = module if isinstance(module, type) else type(module)
        self.params = dict(params)
        self._skeleton: nn.Module | None = None
        self._arrays: list[tuple[_Slot, np.ndarray, bool, bool]] = []
        if not self.is_class:
            self._strip(module)

    def build(self, seed: int) -> nn.Module:
        """Make the module on the CPU; what is random in a class follows the seed.

        The random state of torch stays as it is.
        """
        if self._skeleton is not None:
            memo: dict[int, Any] = {id(slot): None for slot, _, _, _ in self._arrays}
            for slot, values, is_parameter, requires_grad in self._arrays:
                tensor = torch.as_tensor(values.copy())
                memo[id(slot)] = nn.Parameter(tensor, requires_grad) if is_parameter else tensor
            return copy.deepcopy(self._skeleton, memo)
        with seeded(seed):
            module = self.kind(**self.params)
            self._make_lazy_parts(module)
        return module

    def reinitialise(self, module: nn.Module, seed: int) -> None:
        """Call ``reset_parameters`` of every part that has it."""
        with seeded(seed), torch.no_grad():
            for part in module.modules():
                reset = getattr(part, "reset_parameters", None)
                if callable(reset):
                    reset()

    def _strip(self, module: nn.Module) -> None:
        """Keep a copy of an instance in which slots stand for the parameters and buffers."""
        module = copy.deepcopy(module)
        with seeded(0):
            self._make_lazy_parts(module)
        memo: dict[int, Any] = {}
        tensors: list[tuple[Tensor, bool]] = [(p, True) for p in module.parameters()]
        tensors += [(b, False) for b in module.buffers()]
        for tensor, is_parameter in tensors:
            memo[id(tensor)] = slot = _Slot()
            values = tensor.detach().cpu().numpy().copy()
            self._arrays.append((slot, values, is_parameter, tensor.requires_grad))
        self._skeleton = copy.deepcopy(module, memo)

    def _make_lazy_parts(self, module: nn.Module) -> None:
        """Give lazy parameters their shapes by a pass over one row of zeros."""
        tensors = [*module.parameters(), *module.buffers()]
        if not any(
            isinstance(t, (nn.UninitializedParameter, nn.UninitializedBuffer)) for t in tensors
        ):
            return
        modes = {part: part.training for part in module.modules()}
        with torch.no_grad():
            module.eval()(torch.zeros(1, *self.row_shape))
        for part in module.modules():  # lazy parts have changed their class in place
            part.training = modes[part]


class _Slot:
    """Stands for one tensor of a module."""


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """A random state of torch for a while; the one before comes back."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def accepted_params(kind: type) -> tuple[list[str], bool]:
    """Names that a class takes, and whether it takes any others too."""
    params = list(inspect.signature(kind.__init__).parameters.values())[1:]  # type: ignore[misc]
    names = [p.name for p in params if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return names, any(p.kind == p.VAR_KEYWORD for p in params)
