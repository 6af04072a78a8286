"""Outlier detection with a variational autoencoder."""

from __future__ import annotations

import numbers
import warnings
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OutlierMixin, clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from skbayes.density.conformal import cross_scores, p_values, smooth_ranks, threshold
from skbayes.density.objectives import OBJECTIVES
from skbayes.density.options import check_options, make_columns, number
from skbayes.density.rows import CheckedRows, check_rows, in_parts
from skbayes.density.scores import SCORES, WITHOUT_DENSITY
from skbayes.density.vae import VAEDensityEstimator

MOST_KEPT = 2000
"""Training and calibration rows that are kept for scores chosen after `fit`."""

MOST_CALIBRATION = 20_000
N_FOLDS = 5
FEW = 500
ROBUSTNESS_FEW, ROBUSTNESS = 2.0, 0.5
"""Of the default model, with fewer than `FEW` rows and from there on."""


class VAEAnomalyDetector(OutlierMixin, BaseEstimator):
    r"""Outlier detector on the density of a variational autoencoder.

    A row is an outlier where its score is lower than those of nearly all rows like the training
    rows. How low that is comes from calibration rows that the model has not seen, by conformal
    p-values

    .. math:: p(x) = \frac{1 + \#\{i : s(x_i) \le s(x)\}}{m + 1},

    so that among new normal rows a share of at most ``false_alarm_rate`` is flagged. With 500 rows
    and more a fifth of them (at most 20,000) is for calibration, apart from those that stop the
    training. With fewer the calibration is across five folds k, each scored by a model of the
    others,

    .. math:: p(x) = \frac{1 + \sum_k \#\{i \in k : s_k(x_i) \le s_k(x)\}}{n + 1}

    (Vovk 2015); the score of a new row is the mean over the five, moved as far as its p-value
    needs.

    Parameters
    ----------
    density : VAEDensityEstimator or None, default=None
        The model, not fitted. None: a small one that trains for 300 steps; with 500 rows and more
        it has a linear path and a mixture as latent prior, with fewer two latent variables only,
        so that a few outliers are not learned.
    anomaly_score : str or list of str, default="log_density"
        "log_density", "elbo", "reconstruction" (mean of log p(x given z)), "kl" (divergence of q
        from the prior), "latent_knn" (distance in the latent space to the nearest of at most 2,000
        training rows, evenly taken), "regret" (what the bound gains by fitting q to the row),
        "rank_average" (of the first five), or a list of names, whose ranks are averaged. It can be
        changed after `fit`; each has its own ``offset_``. A ``density`` whose objective leaves no
        density has "reconstruction" (the squared error over the residual's variance) and
        "latent_knn".
    contamination : "auto" or float in (0, 0.5], default="auto"
        "auto" flags rows with a p-value below ``false_alarm_rate``. A number is the share of the
        training rows that is flagged: the quantile of all their scores, or of those of 2,000 where
        the score is chosen after `fit`.
    false_alarm_rate : float, default=0.01
        Share of new normal rows that may be flagged with ``contamination="auto"``.
    trim : float in [0, 0.5), default=0.0
        Share of the training rows that is left out of a second fit: those that the first one
        finds least likely. For training rows that are not all normal.
    robustness : float or "auto", default="auto"
        The other way to resist such rows: if positive, training is on the beta divergence
        (``objective="beta-divergence"`` of the model, which has to be "elbo" otherwise), in which
        unlikely rows weigh less. "auto" is 2 for the default model with fewer than 500 rows, of
        which few outliers spoil a density, and 0.5 with more; it leaves a given ``density`` as it
        is. Rows that weigh little are not encoded either: for "kl" and "latent_knn" take 0.
    n_neighbors : int, default=5
        Of "latent_knn".
    random_state : int, RandomState or None, default=None
        Seed, also of ``density`` where that has none.
    verbose : int, default=0
        Of the default ``density``.

    Attributes
    ----------
    offset_ : float
        ``decision_function`` is ``score_samples`` less this; of the current ``anomaly_score``.
    models_ : list of VAEDensityEstimator
        The fitted model, or one for each fold.
    n_calibration_ : int
        Number of calibration rows.
    n_features_in_ : int
        Number of columns of X.

    Notes
    -----
    Where calibration rows are so few that no p-value can be below ``false_alarm_rate`` (99 for
    0.01), `fit` warns and flags the rows that score lower than all of them. The p-values hold for
    rows like the training rows, outliers among these included. Across folds the guarantee is that
    at most about twice the rate is flagged, and in practice it is the rate. With ``trim`` the
    calibration rows are not trimmed, so that fewer rows are flagged rather than more.

    References
    ----------
    Vovk, Gammerman and Shafer (2005), Algorithmic learning in a random world. Vovk (2015),
    Cross-conformal predictors.
    """

    def __init__(
        self,
        density=None,
        anomaly_score="log_density",
        *,
        contamination="auto",
        false_alarm_rate=0.01,
        trim=0.0,
        robustness="auto",
        n_neighbors=5,
        random_state=None,
        verbose=0,
    ):
        self.density = density
        self.anomaly_score = anomaly_score
        self.contamination = contamination
        self.false_alarm_rate = false_alarm_rate
        self.trim = trim
        self.robustness = robustness
        self.n_neighbors = n_neighbors
        self.random_state = random_state
        self.verbose = verbose

    def fit(self, X, y=None):
        """Train the model and calibrate its score.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows, most or all of them normal.
        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted detector.

        Raises
        ------
        ValueError
            If a parameter or the data are not allowed.
        """
        self._check()
        X = self._rows(X, reset=True, min_rows=3)
        n = X.shape[0]
        rng = check_random_state(self.random_state)
        order = rng.permutation(n)
        self.models_: list[VAEDensityEstimator] = []
        # rows that each model was trained on, and rows that calibrate it
        self._train: list[np.ndarray] = []
        self._calibration: list[np.ndarray] = []
        if n >= FEW:
            m = min(n // 5, MOST_CALIBRATION)
            parts = [(order[m:], order[:m])]
        else:
            folds = np.array_split(order, min(N_FOLDS, n))
            parts = [(np.setdiff1d(order, fold), fold) for fold in folds]
        # one for all folds, so that their densities have the same units and know all categories
        names = getattr(self, "feature_names_in_", None)
        some = default_density(n) if self.density is None else self.density
        self._columns = make_columns(some, X.shape[1], names).fit(X)
        for train, calibration in parts:
            rows = CheckedRows(X, np.sort(train))
            self.models_.append(self._fit_model(rows, n, rng, names))
            self._train.append(rows[:: -(-len(rows) // MOST_KEPT)])
            self._calibration.append(X[np.sort(calibration)])
        few = order if n <= MOST_KEPT else rng.choice(n, MOST_KEPT, replace=False)
        self._some = X[np.sort(few)]
        self.n_calibration_ = sum(map(len, self._calibration))
        self._known: dict[Any, Any] = {}
        if not isinstance(self.contamination, str):
            self._known[("training", *self._key())] = self._scores(X)
        self._calibrated()
        return self

    def _check(self) -> None:
        """Raise a ValueError that names the first parameter that is not allowed."""
        if self.density is not None and not isinstance(self.density, VAEDensityEstimator):
            raise ValueError(
                f"density={self.density!r} is not allowed; it must be None or a "
                "VAEDensityEstimator."
            )
        self._names()
        number(self, "n_neighbors", numbers.Integral, 1)
        number(self, "false_alarm_rate", numbers.Real, 0, above=True)
        number(self, "trim", numbers.Real, 0)
        if not (isinstance(self.robustness, str) and self.robustness == "auto"):
            number(self, "robustness", numbers.Real, 0)
            objective = "elbo" if self.density is None else self.density.objective
            if self.robustness and objective != "elbo":
                raise ValueError(
                    f"robustness={self.robustness!r} is not allowed with a density whose objective "
                    f"is {objective!r}; it needs objective='elbo'."
                )
        if self.false_alarm_rate >= 1:
            raise ValueError(
                f"false_alarm_rate={self.false_alarm_rate!r} is not allowed; it must be below 1."
            )
        if self.trim >= 0.5:
            raise ValueError(f"trim={self.trim!r} is not allowed; it must be below 0.5.")
        c = self.contamination
        real = isinstance(c, numbers.Real) and not isinstance(c, bool)
        if not (isinstance(c, str) and c == "auto") and not (real and 0 < c <= 0.5):
            raise ValueError(
                f"contamination={c!r} is not allowed; it must be 'auto' or a number in (0, 0.5]."
            )

    def _names(self) -> list[str]:
        """Names of the scores whose ranks are averaged, or of the only one."""
        objective = "elbo" if self.density is None else self.density.objective
        density = objective not in OBJECTIVES or OBJECTIVES[objective].has_density
        known = tuple(SCORES) if density else WITHOUT_DENSITY
        given = self.anomaly_score
        if isinstance(given, str) and given == "rank_average" and density:
            return [name for name in SCORES if name != "regret"]
        names = [given] if isinstance(given, str) else given
        good = isinstance(names, list | tuple) and len(names) > 0
        if not good or not all(isinstance(name, str) and name in known for name in names):
            why = "" if density else f" with a density whose objective is {objective!r}"
            more = ", 'rank_average'," if density else ","
            raise ValueError(
                f"anomaly_score={given!r} is not allowed{why}; allowed are "
                f"{', '.join(map(repr, known))}{more} or a list of these."
            )
        return list(names)

    def _fit_model(self, rows: CheckedRows, n: int, rng, names) -> VAEDensityEstimator:
        """Fit a model to rows, which are of n."""
        seed = rng.randint(2**31 - 1)
        robustness = self.robustness
        if self.density is None:
            model = default_density(len(rows), n < FEW).set_params(verbose=self.verbose)
            if robustness == "auto":
                robustness = ROBUSTNESS_FEW if n < FEW else ROBUSTNESS
        else:
            model = clone(self.density)
            robustness = 0.0 if robustness == "auto" else robustness
        if model.random_state is None:
            model.set_params(random_state=seed)
        if robustness:
            model.set_params(objective="beta-divergence", robustness=robustness)
        check_options(model)

        def fit(model: VAEDensityEstimator, rows: CheckedRows) -> VAEDensityEstimator:
            model.n_features_in_ = rows.shape[1]
            if names is not None:
                model.feature_names_in_ = names
            with warnings.catch_warnings():
                if self.density is None:  # is short by design
                    warnings.filterwarnings("ignore", "max_epochs=", ConvergenceWarning)
                return model._fit(rows, columns=self._columns)

        fit(model, rows)
        if self.trim:
            score = SCORES["log_density" if hasattr(model, "score_samples") else "reconstruction"]
            scores = in_parts(lambda part: score(model, part, None, 0), rows)
            keep = np.argsort(-scores, kind="stable")
            keep = np.sort(keep[: max(2, round((1 - self.trim) * len(rows)))])
            model = fit(clone(model), CheckedRows(rows, keep))
        return model

    # ------------------------------------------------------------------ scores

    def _key(self) -> tuple:
        return tuple(self._names()), self.n_neighbors

    def _score(self, k: int, X) -> np.ndarray:
        """Current score of rows by model k, high for normal rows."""
        names = self._names()
        model, train = self.models_[k], CheckedRows(self._train[k])
        values = [SCORES[name](model, X, train, self.n_neighbors) for name in names]
        if len(names) == 1:
            return values[0]
        ranks = [smooth_ranks(v, self._reference(n)[k]) for v, n in zip(values, names, strict=True)]
        return np.mean(ranks, 0)

    def _reference(self, name: str) -> list[np.ndarray]:
        """One score of each model's own training rows; ranks are among them."""
        key = "reference", name, self.n_neighbors
        if key not in self._known:
            rows = [CheckedRows(train) for train in self._train]
            self._known[key] = [
                SCORES[name](model, train, train, self.n_neighbors)
                for model, train in zip(self.models_, rows, strict=True)
            ]
        return self._known[key]

    def _calibration_scores(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """What to take from each model's scores, and its scores of its calibration rows less that.

        Models differ by a constant for all rows: they are brought to one scale by the median
        difference from their mean.
        """
        key = "calibration", *self._key()
        if key not in self._known:
            shift = np.zeros(len(self.models_))
            if len(shift) > 1:
                rows = CheckedRows(self._some)
                scores = np.stack([self._score(k, rows) for k in range(len(shift))])
                shift = np.median(scores - scores.mean(0), axis=1)
            own = [self._score(k, CheckedRows(X)) for k, X in enumerate(self._calibration)]
            self._known[key] = shift, [s - c for s, c in zip(own, shift, strict=True)]
        return self._known[key]

    def _calibrated(self) -> tuple[np.ndarray, float]:
        """Sorted calibration scores and the offset, kept once they are known."""
        self._check()
        scores = np.sort(np.concatenate(self._calibration_scores()[1]))
        key = "offset", *self._key(), self.contamination, self.false_alarm_rate
        if key not in self._known:
            if not isinstance(self.contamination, str):
                training = self._known.get(("training", *self._key()))
                if training is None:
                    training = self._scores(CheckedRows(self._some))
                offset = float(np.percentile(training, 100.0 * float(self.contamination)))
            else:
                found = threshold(scores, self.false_alarm_rate)
                if found is None:
                    warnings.warn(
                        f"{len(scores)} calibration rows are too few for a p-value below "
                        f"false_alarm_rate={self.false_alarm_rate}; rows that score lower than all "
                        f"of them are flagged, about one in {len(scores) + 1} normal rows.",
                        UserWarning,
                        stacklevel=3,
                    )
                offset = float(scores[0]) if found is None else found
            self._known[key] = offset
        return scores, self._known[key]

    def _scores(self, X: CheckedRows) -> np.ndarray:
        """Current score of rows, part by part; those with unknown categories have -inf."""
        return in_parts(self._scores_of_part, X)

    def _scores_of_part(self, X: CheckedRows) -> np.ndarray:
        known = self._columns.known(X[:])
        out = np.full(len(X), -np.inf)
        if known.any():
            rows = CheckedRows(X, np.flatnonzero(known))
            scores = np.stack([self._score(k, rows) for k in range(len(self.models_))])
            if len(scores) > 1:
                shift, calibration = self._calibration_scores()
                out[known] = cross_scores(scores - shift[:, None], calibration)
            else:
                out[known] = scores[0]
        return out

    @property
    def offset_(self) -> float:
        """Score below which a row is an outlier, of the current ``anomaly_score``."""
        check_is_fitted(self, "models_")
        return self._calibrated()[1]

    def score_samples(self, X):
        """Score of each row; the lower, the more abnormal.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            In nats, or a mean rank in (0, 1); minus infinity where a category, a binary value or a
            count is one that the model has no probability for.
        """
        check_is_fitted(self, "models_")
        self._check()
        return self._scores(self._rows(X))

    def _rows(self, X, reset: bool = False, min_rows: int = 1) -> CheckedRows:
        image = None if self.density is None else self.density.image_shape
        return CheckedRows(check_rows(self, X, reset, min_rows, image))

    def decision_function(self, X):
        """`score_samples` less ``offset_``: negative for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return self.score_samples(X) - self.offset_

    def predict(self, X):
        """+1 for normal rows, -1 for outliers.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        return np.where(self.decision_function(X) < 0, -1, 1)

    def predict_p_value(self, X):
        """Conformal p-value of each row: small for outliers, spread evenly for normal rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
            Between 1 / (``n_calibration_`` + 1) and 1.
        """
        return p_values(self.score_samples(X), self._calibrated()[0])

    def constant_violations(self, X):
        """Number of columns of each row that were constant in `fit` and have another value.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,)
        """
        check_is_fitted(self, "models_")
        X = self._rows(X)
        return in_parts(lambda part: self._columns.constant_violations(part[:]), X)


def default_density(n: int, few: bool = False) -> VAEDensityEstimator:
    """The model of the detector's default, for n rows to train on."""
    model = VAEDensityEstimator(
        (32,),
        linear_path=True,
        max_epochs=max(1, round(300 * min(256, n) / n)),
        batch_size=256,
        n_components=8,
        n_importance=64,
        importance_inflation=1.2,
        refit=False,
    )
    if few:
        model.set_params(linear_path=False, latent_dim=2, noise="per_feature", warm_up=50)
    return model
