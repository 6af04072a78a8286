"""Scores that scikit-learn does not have: calibration, intervals, densities by draws."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.validation import check_is_fitted

from skbayes.counts import check_count
from skbayes.pipeline import split_pipeline


def expected_calibration_error(y_true, y_proba, n_bins=15):
    r"""Gap between confidence and accuracy, averaged over bins of confidence.

    The confidence of a row is the probability of its most probable class. Rows are put into bins
    of equal width by their confidence, and

    .. math:: \text{ECE} = \sum_{m=1}^M \frac{|B_m|}{n}
              \left| \operatorname{acc}(B_m) - \operatorname{conf}(B_m) \right|,

    Guo et al. (2017), section 2, the bins being :math:`((m - 1) / M, m / M]`.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Labels.
    y_proba : array-like of shape (n_samples, n_classes) or (n_samples,)
        Probabilities; the columns in the sorted order of the labels. One column, or one
        dimension, is the probability of the second of two classes.
    n_bins : int, default=15
        Number of bins.

    Returns
    -------
    float
        Between 0 and 1; 0 is calibrated.

    Raises
    ------
    ValueError
        If ``y_proba`` does not hold probabilities, or ``y_true`` more or fewer classes than it.
        Labels must then be 0 to n_classes - 1.

    Notes
    -----
    The error of a calibrated model is not zero on a finite sample: each bin adds about the
    standard error of its accuracy. Compare models on the same rows and bins.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger (2017), On Calibration of Modern Neural Networks.

    Examples
    --------
    >>> from skbayes.metrics import expected_calibration_error
    >>> y_proba = [[0.2, 0.8], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8], [0.2, 0.8]]
    >>> round(expected_calibration_error([1, 1, 1, 1, 0], y_proba), 6)
    0.0
    >>> round(expected_calibration_error([1, 1, 0, 0, 0], [0.8, 0.8, 0.8, 0.8, 0.8]), 6)
    0.4
    """
    check_count("n_bins", n_bins)
    proba = check_array(y_proba, dtype=np.float64, ensure_2d=False, input_name="y_proba")
    if proba.ndim == 1 or proba.shape[1] == 1:
        proba = proba.ravel()
        proba = np.column_stack([1.0 - proba, proba])
    y = column_or_1d(y_true)
    check_consistent_length(y, proba)
    if (proba < 0).any() or (proba > 1).any() or not np.allclose(proba.sum(1), 1.0, atol=1e-4):
        raise ValueError("y_proba must hold probabilities that sum to one in every row.")
    confidence = proba.max(1)
    correct = proba.argmax(1) == _class_numbers(y, proba.shape[1])
    # bins are open to the left; the first holds zero too
    number = np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)
    gap = np.bincount(number, correct - confidence, n_bins)  # |B| (acc - conf)
    return float(np.abs(gap).sum() / len(y))


def interval_coverage(y_true, interval):
    r"""Share of targets that lie within their intervals.

    .. math:: \frac1n \sum_i 1[l_i \le y_i \le u_i]

    the prediction interval coverage probability of Khosravi et al. (2011).

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.
    interval : array-like of shape (n_samples, 2) or (n_samples, n_outputs, 2)
        Lower and upper ends, as ``predict_interval`` gives them.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        Compare with the ``coverage`` that was asked for: over it means too wide.

    References
    ----------
    Khosravi, Nahavandi, Creighton and Atiya (2011), Comprehensive Review of Neural Network-Based
    Prediction Intervals and New Advances.

    Examples
    --------
    >>> from skbayes.metrics import interval_coverage
    >>> interval_coverage([1.0, 2.0, 3.0, 9.0], [[0, 2], [1, 3], [2, 4], [3, 5]])
    0.75
    """
    ends = _check_interval(interval)
    y = check_array(y_true, dtype=np.float64, ensure_2d=False, input_name="y_true")
    if ends.ndim == 2 and y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.shape != ends.shape[:-1]:
        raise ValueError(
            f"y_true has the shape {y.shape}, but interval {ends.shape} is for targets of shape "
            f"{ends.shape[:-1]}."
        )
    inside = (ends[..., 0] <= y) & (y <= ends[..., 1])
    return _mean_over_rows(inside)


def interval_width(interval):
    r"""Mean width of intervals.

    .. math:: \frac1n \sum_i (u_i - l_i)

    the mean prediction interval width of Khosravi et al. (2011), not divided by the range of the
    targets. Of two models with the same coverage the one with the smaller width says more.

    Parameters
    ----------
    interval : array-like of shape (n_samples, 2) or (n_samples, n_outputs, 2)
        Lower and upper ends, as ``predict_interval`` gives them.

    Returns
    -------
    float or ndarray of shape (n_outputs,)
        In the units of the targets.

    References
    ----------
    Khosravi, Nahavandi, Creighton and Atiya (2011), Comprehensive Review of Neural Network-Based
    Prediction Intervals and New Advances.

    Examples
    --------
    >>> from skbayes.metrics import interval_width
    >>> interval_width([[0, 2], [1, 5]])
    3.0
    """
    ends = _check_interval(interval)
    return _mean_over_rows(ends[..., 1] - ends[..., 0])


def log_density_draws(estimator, X, y):
    """Log density of each target by each draw alone.

    Its average over draws, in densities, is ``log_predictive_density``. It is the
    ``log_likelihood`` of `skbayes.posterior.Posterior.to_arviz`.

    Parameters
    ----------
    estimator : object
        Fitted estimator, or a pipeline or search that ends in one.
    X : array-like of shape (n_samples, n_features)
        Rows.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets; of several outputs the joint density counts.

    Returns
    -------
    ndarray of shape (n_chains, n_draws, n_samples)
        In the units of y; log probabilities for classifiers.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.metrics import log_density_draws
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = BayesianMLPRegressor((), method="anchored", random_state=0).fit(X, y)
    >>> log_density_draws(reg, X, y).shape  # 16 members of one draw each
    (16, 1, 442)
    """
    posterior, parts = _log_densities(estimator, X, y)
    flat = np.concatenate(list(parts), 1)
    return flat.reshape(posterior.n_chains, posterior.n_draws, -1)


class CumulativeDensity(NamedTuple):
    """Mean log predictive density by the number of draws.

    Attributes
    ----------
    chains : ndarray of shape (n_chains, n_draws)
        Of each chain's first draws.
    pooled : ndarray of shape (n_draws,)
        Of the first draws of all chains together.
    """

    chains: np.ndarray
    pooled: np.ndarray


def cumulative_log_predictive_density(estimator, X, y):
    r"""Mean log predictive density of the first t draws, for every t.

    .. math:: \frac1n \sum_{i=1}^n \log \frac1t \sum_{s=1}^t p(y_i \mid x_i, \theta_s),

    for every chain by itself, and with the densities averaged over the chains too, as Sommer et
    al. (2024) use it to see how many draws and chains are enough. Where a curve is still rising,
    more draws predict better. Where that of all chains lies far above those of single chains, the
    chains have found different functions, and more chains predict better.

    Parameters
    ----------
    estimator : object
        Fitted estimator, or a pipeline or search that ends in one.
    X : array-like of shape (n_samples, n_features)
        Rows, best ones that were held out.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs)
        Targets.

    Returns
    -------
    CumulativeDensity
        Named tuple: ``chains`` (n_chains, n_draws) and ``pooled`` (n_draws,), in the units of y.
        The members of an ensemble count as the draws of one chain. The last of ``pooled`` is the
        mean of ``log_predictive_density``.

    References
    ----------
    Sommer, Wimmer, Papamarkou, Bothmann, Bischl and Ruegamer (2024), Connecting the Dots: Is
    Mode-Connectedness the Key to Feasible Sample-Based Inference in Bayesian Neural Networks?

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from skbayes import BayesianMLPRegressor
    >>> from skbayes.metrics import cumulative_log_predictive_density
    >>> X, y = load_diabetes(return_X_y=True)
    >>> reg = BayesianMLPRegressor((5,), method="anchored", random_state=0).fit(X, y)
    >>> cumulative_log_predictive_density(reg, X, y).pooled.shape  # by the number of members
    (16,)
    """
    posterior, parts = _log_densities(estimator, X, y)
    lead = (1, -1) if posterior.independent else (posterior.n_chains, posterior.n_draws)
    chains, pooled, n = 0.0, 0.0, 0
    for part in parts:  # (draws, rows), a bounded number of rows
        sums = np.logaddexp.accumulate(part.reshape(*lead, part.shape[1]), axis=1)
        count = np.log(np.arange(1, sums.shape[1] + 1))
        chains = chains + (sums - count[:, None]).sum(2)
        together = np.logaddexp.reduce(sums, axis=0) - np.log(len(sums))
        pooled = pooled + (together - count[:, None]).sum(1)
        n += part.shape[1]
    return CumulativeDensity(np.asarray(chains) / n, np.asarray(pooled) / n)


def _log_densities(estimator, X, y):
    """The posterior of what an estimator ends in, and its log densities (draws, rows) in chunks."""
    transformers, final = split_pipeline(estimator)
    if not hasattr(final, "_log_densities"):
        raise ValueError(
            f"{type(final).__name__} has no draws; this needs a fitted estimator of skbayes, or a "
            "pipeline or search that ends in one."
        )
    check_is_fitted(final, "posterior_")
    return final.posterior_, final._log_densities(transformers(X), y)


def _class_numbers(y: np.ndarray, n_classes: int) -> np.ndarray:
    """Column of every label: its place among the sorted labels, or itself where some lack."""
    classes, number = np.unique(y, return_inverse=True)
    if len(classes) == n_classes:
        return number
    if y.dtype.kind in "iub" and y.min() >= 0 and y.max() < n_classes:
        return y.astype(int)
    raise ValueError(
        f"y_true holds {len(classes)} classes and y_proba {n_classes} columns; they must be as "
        "many, or the labels the numbers of the columns."
    )


def _check_interval(interval) -> np.ndarray:
    ends = check_array(interval, dtype=np.float64, allow_nd=True, input_name="interval")
    if ends.ndim > 3 or ends.shape[-1] != 2:
        raise ValueError(
            f"interval has the shape {ends.shape}; it must be (n_samples, 2) or "
            "(n_samples, n_outputs, 2)."
        )
    if (ends[..., 0] > ends[..., 1]).any():
        raise ValueError("interval has lower ends above its upper ends.")
    return ends


def _mean_over_rows(values: np.ndarray):
    mean = values.mean(0)
    return float(mean) if mean.ndim == 0 else mean
