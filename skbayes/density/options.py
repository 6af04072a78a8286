"""Checks of the parameters that both density estimators have."""

from __future__ import annotations

import numbers

import numpy as np

from skbayes.density.columns import Columns
from skbayes.density.heads import NOISES
from skbayes.density.model import PRIORS
from skbayes.density.networks import ACTIVATIONS
from skbayes.density.objectives import OBJECTIVES
from skbayes.validation import check_choice, check_hidden_layer_sizes


def check_options(estimator) -> None:
    """Raise a ValueError that names the first parameter that is not allowed."""
    e = estimator
    check_hidden_layer_sizes(e.hidden_layer_sizes)
    check_choice("activation", e.activation, tuple(ACTIVATIONS))
    check_choice("noise", e.noise, NOISES)
    check_choice("latent_prior", e.latent_prior, ("auto", *PRIORS))
    check_choice("linear_path", e.linear_path, ("auto", True, False))
    check_choice("objective", e.objective, tuple(OBJECTIVES))
    check_choice("decoder_weights", e.decoder_weights, ("point", "normal"))
    check_choice("kernel", e.kernel, ("imq", "rbf"))
    check_choice("refit", e.refit, ("auto", True, False))
    check_choice("standardize", e.standardize, (True, False))
    for name in ("latent_dim", "max_epochs", "n_points"):
        if getattr(e, name) is not None:
            number(e, name, numbers.Integral, 1)
    for name in ("n_components", "n_importance", "batch_size", "patience"):
        number(e, name, numbers.Integral, 1)
    number(e, "warm_up", numbers.Integral, 0)
    number(e, "n_weight_draws", numbers.Integral, 1)
    for name in ("noise_floor", "learning_rate", "importance_inflation", "robustness"):
        number(e, name, numbers.Real, 0, above=True)
    for name in ("noise_prior", "beta", "free_bits", "penalty"):
        number(e, name, numbers.Real, 0)
    fraction = e.validation_fraction
    real = isinstance(fraction, numbers.Real) and not isinstance(fraction, bool)
    auto = isinstance(fraction, str) and fraction == "auto"
    if not auto and (not real or not 0 <= fraction < 1):
        raise ValueError(
            f"validation_fraction={fraction!r} is not allowed; it must be 'auto' or a number in "
            "[0, 1)."
        )
    if isinstance(e.integer_features, str) and e.integer_features != "auto":
        raise ValueError(
            f"integer_features={e.integer_features!r} is not allowed; it must be 'auto', None, or "
            "columns."
        )
    if e.image_shape is not None:
        check_image(e)
    _check_objective(e)
    if e.callbacks is not None:
        from skbayes.callbacks import check_callbacks

        check_callbacks(e.callbacks, losses=("train_loss", "valid_loss"))
    if e.objective == "beta-divergence" and e.count_features is not None:
        raise ValueError(
            f"count_features={e.count_features!r} is not allowed with objective='beta-divergence', "
            "which has no closed form for counts."
        )
    if e.decoder_weights == "normal" and (e.objective != "elbo" or e.image_shape is not None):
        raise ValueError(
            "decoder_weights='normal' is not allowed with "
            f"objective={e.objective!r}, image_shape={e.image_shape!r}; it needs objective='elbo' "
            "and image_shape=None."
        )
    if not OBJECTIVES[e.objective].has_density and e.latent_prior == "two_stage":
        raise ValueError(
            f"latent_prior='two_stage' is not allowed with objective={e.objective!r}, which has no "
            "posterior of the latent variables; use 'elbo' or 'iwae'."
        )


def _check_objective(e) -> None:
    """Raise where an option has no part in the objective."""
    unused = []
    if not OBJECTIVES[e.objective].has_density:
        unused = [("n_points", None), ("linear_path", "auto"), ("free_bits", 0.0)]
        if e.objective != "vae-gan":
            unused.append(("beta", 1.0))
        if e.linear_path is False:  # what they do anyway
            unused.remove(("linear_path", "auto"))
    elif e.objective == "iwae":
        unused = [("free_bits", 0.0)]
    for name, default in unused:
        value = getattr(e, name)
        if value != default:
            raise ValueError(
                f"{name}={value!r} is not allowed with objective={e.objective!r}, which makes no "
                f"use of it; it must be {default!r}."
            )


def number(estimator, name: str, kind, low: float, above: bool = False) -> None:
    """Raise unless a parameter is a finite number >= low (> low with ``above``)."""
    value = getattr(estimator, name)
    good = isinstance(value, kind) and not isinstance(value, bool) and np.isfinite(value)
    if not good or value < low or (above and value == low):
        what = "an integer" if kind is numbers.Integral else "a number"
        sign = ">" if above else ">="
        raise ValueError(f"{name}={value!r} is not allowed; it must be {what} {sign} {low}.")


def check_image(estimator) -> tuple[int, int, int]:
    """The shape (channels, height, width) of ``image_shape=``, which the layers must divide."""
    shape, channels = estimator.image_shape, estimator.channels
    try:
        sizes = tuple(int(s) for s in shape)
        layers = tuple(int(c) for c in channels)
    except (TypeError, ValueError):
        sizes, layers = (), ()
    if len(sizes) == 2:
        sizes = (1, *sizes)
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(
            f"image_shape={shape!r} is not allowed; it must be (height, width) or (channels, "
            "height, width)."
        )
    if not layers or min(layers) < 1:
        raise ValueError(f"channels={channels!r} is not allowed; it must be integers >= 1.")
    if any(s % 2 ** len(layers) for s in sizes[1:]):
        raise ValueError(
            f"image_shape={shape!r} is not allowed with {len(layers)} channels: height and width "
            f"must be multiples of {2 ** len(layers)}."
        )
    return sizes[0], sizes[1], sizes[2]


def make_columns(estimator, n_features: int, names) -> Columns:
    """The kinds of columns that an estimator names, not fitted yet."""
    e = estimator
    kinds = {
        kind: column_indices(f"{kind}_features", getattr(e, f"{kind}_features"), n_features, names)
        for kind in ("categorical", "binary", "count")
    }
    detect = isinstance(e.integer_features, str)
    integer = None if detect else e.integer_features
    kinds["integer"] = column_indices("integer_features", integer, n_features, names)
    seen: dict[int, str] = {}
    for kind, columns in kinds.items():
        for j in columns:
            if j in seen:
                raise ValueError(
                    f"{kind}_features names column {j}, which {seen[j]}_features names too."
                )
            seen[j] = kind
    return Columns(
        **kinds,
        standardize=e.standardize,
        detect_integer=detect,
        image=e.image_shape is not None,
    )


def column_indices(name: str, columns, n_features: int, names) -> tuple[int, ...]:
    """Indices from indices, a mask or names, each once."""
    if columns is None:
        return ()
    values = np.asarray(columns)
    if values.ndim == 1 and values.dtype == bool and len(values) == n_features:
        return tuple(np.flatnonzero(values).tolist())
    if values.ndim == 1 and values.dtype.kind in "UO" and names is not None and len(values):
        known = {key: j for j, key in enumerate(names)}
        missing = [key for key in values if key not in known]
        if missing:
            raise ValueError(f"{name} names {missing[0]!r}, which is not a column of X.")
        return tuple(sorted({known[key] for key in values}))
    if values.ndim == 1 and (not len(values) or values.dtype.kind in "iu"):
        index = np.where(values < 0, values + n_features, values) if len(values) else values
        if not len(values) or ((index >= 0) & (index < n_features)).all():
            return tuple(sorted({int(j) for j in index}))
    raise ValueError(
        f"{name}={columns!r} is not allowed; it must be indices below {n_features}, a mask of that "
        "length, or names of columns."
    )
