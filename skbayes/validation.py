"""Checks of what users pass in, and the weighted standardiser."""

from __future__ import annotations

import numbers
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.utils import check_random_state

from skbayes.inference import METHODS, Method
from skbayes.model.activations import ACTIVATIONS
from skbayes.model.priors import PRIORS, NormalPrior, Prior

HEAVY_TAILS = 6.0  # the kurtosis of a Laplace distribution
BENDS = (1.0, 3.0, 10.0)  # factors of standardised values inside the arcsinh, the gentlest first
DTYPES = {"float32": torch.float32, "float64": torch.float64}


def resolve_method(method) -> Method | None:
    """Turn ``method=`` (a string or an object) into a checked method object.

    None is "auto", which is chosen when data and network are known
    (`skbayes.inference.auto.choose`).
    """
    if isinstance(method, str):
        if method == "auto":
            return None
        if method not in METHODS:
            raise ValueError(
                f"method={method!r} is not known; allowed are 'auto', "
                f"{', '.join(map(repr, METHODS))}, or an object from skbayes.inference."
            )
        return METHODS[method]()
    if not isinstance(method, Method):
        raise ValueError(
            f"method={method!r} is not allowed; it must be a string or an object from "
            "skbayes.inference, such as HMC(n_draws=1000) (an object, not its class)."
        )
    method.check()
    return method


def resolve_prior(prior) -> Prior:
    """Turn ``prior=`` (None, a string or a prior object) into a prior object."""
    if prior is None:
        return NormalPrior(scale=2.0, fan_in=True)
    if isinstance(prior, str):
        if prior not in PRIORS:
            raise ValueError(
                f"prior={prior!r} is not known; allowed are None, {', '.join(map(repr, PRIORS))}, "
                "or an object from skbayes.model.priors."
            )
        return PRIORS[prior]()
    if not isinstance(prior, Prior):
        raise ValueError(
            f"prior={prior!r} is not allowed; it must be None, a string or an object from "
            "skbayes.model.priors, such as NormalPrior(scale=0.5) (an object, not its class)."
        )
    return prior


def resolve_device(device: str) -> torch.device:
    """Turn ``device=`` into a torch device that exists."""
    if device not in ("cpu", "cuda", "auto"):
        raise ValueError(f"device={device!r} is not allowed; allowed are 'cpu', 'cuda', 'auto'.")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise ValueError("device='cuda' was asked for, but torch finds no CUDA device.")
    return torch.device(device)


def resolve_dtype(dtype: str) -> torch.dtype:
    """Turn ``dtype=`` into a torch float type."""
    if dtype not in DTYPES:
        raise ValueError(f"dtype={dtype!r} is not allowed; allowed are 'float32', 'float64'.")
    return DTYPES[dtype]


def check_choice(name: str, value, allowed: tuple) -> None:
    """Raise unless ``value`` is one of ``allowed``, by type and value (1 is not True)."""
    if not any(type(value) is type(other) and value == other for other in allowed):
        raise ValueError(
            f"{name}={value!r} is not allowed; allowed are {', '.join(map(repr, allowed))}."
        )


def check_n_jobs(n_jobs) -> None:
    """Raise unless ``n_jobs`` is what joblib takes."""
    whole = isinstance(n_jobs, numbers.Integral) and not isinstance(n_jobs, bool)
    if n_jobs is not None and (not whole or n_jobs == 0):
        raise ValueError(
            f"n_jobs={n_jobs!r} is not allowed; it must be None, an integer >= 1, or a negative "
            "one (-1: all cores)."
        )


def check_hidden_layer_sizes(sizes, more: str = "") -> tuple[int, ...]:
    """Turn ``hidden_layer_sizes=`` (an integer or a sequence of them) into a tuple.

    ``more`` is what else an error says to be allowed.
    """
    entries = [sizes] if isinstance(sizes, numbers.Integral) else sizes
    try:
        out = tuple(entries)
    except TypeError:
        out = (None,)
    if any(type(s) is bool or not isinstance(s, numbers.Integral) or s < 1 for s in out):
        raise ValueError(
            f"hidden_layer_sizes={sizes!r} is not allowed; it must be a tuple of integers >= 1 "
            f"(empty for a linear model){more}."
        )
    return tuple(int(s) for s in out)


def check_activation(activation) -> None:
    """Raise unless the activation is known."""
    if not isinstance(activation, str) or activation not in ACTIVATIONS:
        raise ValueError(
            f"activation={activation!r} is not known; allowed are "
            f"{', '.join(map(repr, ACTIVATIONS))}."
        )


def check_noise(noise, n_outputs: int, y_scale: np.ndarray):
    """Turn ``noise=`` into a string, or deviations in the units that the network sees."""
    if isinstance(noise, str) and noise in ("learned", "heteroscedastic"):
        return noise
    try:
        if isinstance(noise, str):
            raise ValueError
        values = np.broadcast_to(np.asarray(noise, dtype=np.float64), (n_outputs,))
    except (TypeError, ValueError):
        values = np.array([np.nan])
    if isinstance(noise, bool) or not np.isfinite(values).all() or (values <= 0).any():
        raise ValueError(
            f"noise={noise!r} is not allowed; it must be 'learned', 'heteroscedastic', or a "
            "positive standard deviation in the units of y (one number, or one per output)."
        )
    return values / y_scale


def check_sample_weight(sample_weight, n: int) -> np.ndarray | None:
    """Weights as a float array (n,), None where there are none."""
    if sample_weight is None:
        return None
    try:
        weight = np.array(sample_weight, dtype=np.float64)  # a copy: torch wants to own it
    except (TypeError, ValueError):
        raise ValueError(
            f"sample_weight={sample_weight!r} is not allowed; it must be numbers, one for each row."
        ) from None
    if weight.ndim == 0:
        weight = np.full(n, float(weight))
    if weight.ndim != 1:
        raise ValueError(f"sample_weight must be 1-dimensional, but has shape {weight.shape}.")
    if len(weight) != n:
        raise ValueError(f"sample_weight has {len(weight)} entries, but X has {n} rows.")
    if not np.isfinite(weight).all():
        raise ValueError("sample_weight contains NaN or infinity.")
    if (weight < 0).any():
        raise ValueError("sample_weight contains negative weights; they must be >= 0.")
    if not weight.any():
        raise ValueError("sample_weight is zero for every row; at least one must be positive.")
    return weight


def check_targets(y, shape: tuple[int, ...]) -> np.ndarray:
    """Raise unless the targets ``y`` that rows are scored with have the given shape."""
    y = np.asarray(y)
    if len(shape) == 1 and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != shape:
        raise ValueError(f"y has the shape {y.shape}, but with this X it must be {shape}.")
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise ValueError("y contains NaN or infinity.")
    return y


def mean_squared_norm(X, weight: np.ndarray | None) -> float:
    """Weighted mean of the rows' squared norms."""
    if sp.issparse(X):
        return float(np.average(np.asarray(X.multiply(X).sum(1)).ravel(), weights=weight))
    out = 0.0
    for rows in _chunks(X):
        part = X[rows]
        square = np.einsum("ij,ij->i", part, part)
        out += float(square.sum() if weight is None else weight[rows] @ square)
    return out / float(X.shape[0] if weight is None else weight.sum())


def check_finite(inside) -> None:
    """Raise where scaling has left the range of floats."""
    parts = [inside.data] if sp.issparse(inside) else (inside[rows] for rows in _chunks(inside))
    if not all(np.isfinite(part).all() for part in parts):
        raise ValueError("X has values so large that standardising them overflows; rescale X.")


def draw_seed(random_state) -> int:
    """An integer seed from what scikit-learn calls random_state."""
    return int(check_random_state(random_state).randint(np.iinfo(np.int32).max))


class Standardizer:
    """Weighted mean and deviation of every column, frozen once fitted.

    Constant columns keep the scale one, so that they become zero and stay harmless. Sparse
    columns are divided by their largest absolute value and never centred.

    Parameters
    ----------
    active : bool
        False leaves everything as it is.
    bend : bool, default=False
        Whether dense columns with heavier tails than a Laplace distribution (a kurtosis over six)
        pass through arcsinh(c z) once they are standardised, and are standardised again. Of
        c = 1, 3 and 10 the first is taken that brings the kurtosis down to six, or the last. A
        column of two values stays as it is by that.
    """

    def __init__(self, active: bool, bend: bool = False) -> None:
        self.active, self.bend = active, bend

    def fit(self, X, weight: np.ndarray | None = None) -> Standardizer:
        """Take the moments of the columns of X (n, d), dense or CSR."""
        d = X.shape[1]
        self.mean, self.scale = np.zeros(d), np.ones(d)
        self.factor = np.zeros(d)  # c of bent columns
        if not self.active:
            return self
        if sp.issparse(X):
            # The largest absolute value, not the deviation: that of a rare word is next to nothing,
            # and its column would drown all others.
            used = X if weight is None else X[weight > 0]
            top = np.asarray(abs(used).max(0).todense(), dtype=np.float64).ravel()
            self.scale = np.where(top > 0, top, 1.0)
            return self
        total = X.shape[0] if weight is None else weight.sum()

        def mean_of(values) -> np.ndarray:
            """Weighted mean over the rows of what ``values`` makes of them, part by part."""
            out = np.zeros(d)
            for rows in _chunks(X):
                part = values(X[rows])
                share = np.ones(len(part)) if weight is None else weight[rows]
                out += (share / total) @ part
            return out

        # columns are brought near one first, so that squares neither overflow nor vanish
        top = np.zeros(d)
        for rows in _chunks(X):
            np.maximum(top, np.abs(X[rows]).max(0), out=top)
        top[top == 0] = 1.0
        mean = mean_of(lambda part: part / top)
        square = mean_of(lambda part: (part / top - mean) ** 2)
        deviation = np.sqrt(square)
        eps = np.finfo(np.float32 if X.dtype == np.float32 else np.float64).eps
        constant = deviation <= 10 * eps * np.abs(mean)
        self.mean = np.where(constant & (deviation > 0), X[:1][0] / top, mean) * top
        self.scale = np.where(constant, 1.0, deviation) * np.where(constant, 1.0, top)
        if self.bend:
            self._fit_bends(mean_of, constant)
        return self

    def _fit_bends(self, mean_of, constant: np.ndarray) -> None:
        """Find which columns are bent, and how much, and their moments then."""
        d = len(constant)
        self.mean_bent, self.scale_bent = np.zeros(d), np.ones(d)
        kurtosis = mean_of(lambda part: ((part - self.mean) / self.scale) ** 4)
        heavy = ~constant & (kurtosis > HEAVY_TAILS)
        for factor in BENDS:
            if not heavy.any():
                break
            self.factor[heavy] = factor
            mean = mean_of(self._bend)
            variance = mean_of(lambda part, mean=mean: (self._bend(part) - mean) ** 2)
            fourth = mean_of(lambda part, mean=mean: (self._bend(part) - mean) ** 4)
            self.mean_bent[heavy], self.scale_bent[heavy] = mean[heavy], np.sqrt(variance[heavy])
            heavy = heavy & (fourth > HEAVY_TAILS * variance**2)

    def _bend(self, X) -> np.ndarray:
        """Arcsinh of the standardised columns, zero where they are not bent."""
        return np.arcsinh(self.factor * ((X - self.mean) / self.scale))

    def transform(self, X):
        """Bring X (n, d) to the scale of the fit, in float64; sparse stays sparse."""
        if sp.issparse(X):
            return sp.csr_matrix(X.multiply(1.0 / self.scale)) if self.active else sp.csr_matrix(X)
        X = np.asarray(X, dtype=np.float64)
        if not self.active:
            return X
        with np.errstate(over="ignore"):  # whoever asked checks that the result is finite
            X = (X - self.mean) / self.scale
            bent = self.factor > 0
            if bent.any():
                Z = np.arcsinh(self.factor[bent] * X[:, bent])
                X[:, bent] = (Z - self.mean_bent[bent]) / self.scale_bent[bent]
        return X


def _chunks(X, rows: int = 1 << 16):
    """Slices of the rows of X, so that temporaries stay small."""
    for start in range(0, X.shape[0], rows):
        yield slice(start, start + rows)


@contextmanager
def unchanged_on_error(estimator) -> Iterator[None]:
    """Leave an estimator as it was where its fit fails or is interrupted without a result."""
    before = dict(vars(estimator))
    try:
        yield
    except BaseException:
        vars(estimator).clear()
        vars(estimator).update(before)
        raise
