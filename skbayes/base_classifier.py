"""What classifiers share, whatever the network."""

from __future__ import annotations

import numpy as np
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.class_weight import compute_sample_weight
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import column_or_1d

from skbayes.base import BayesianEstimator, random_generator
from skbayes.counts import check_count
from skbayes.model import Bernoulli, Categorical
from skbayes.predictive import Uncertainty, entropy_parts
from skbayes.validation import check_targets


class BayesianClassifier(ClassifierMixin, BayesianEstimator):
    """Base of the classifiers: two classes, many classes, or many labels per row."""

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    classes_: np.ndarray
    _multilabel: bool

    # ---------------------------------------------------------------- fitting

    def _encode_y(self, y, weight, again, classes=None):
        check_classification_targets(y)
        kind = type_of_target(y, input_name="y")
        if kind.startswith("multilabel"):
            if self.class_weight is not None:
                raise ValueError(
                    f"class_weight={self.class_weight!r} is not allowed with multilabel y; pass "
                    "sample_weight."
                )
            values = np.asarray(y, dtype=np.float64)
            classes = np.arange(values.shape[1])
            multilabel = True
            encoded = values.T
        elif kind == "multiclass-multioutput":
            raise ValueError(
                "y has several columns with more than two classes; only one column of classes, or "
                "several columns of 0 and 1, are allowed."
            )
        else:
            y = column_or_1d(y, warn=True)
            multilabel = False
            if again:
                classes = self.classes_
            elif classes is None:
                classes = np.unique(y)
            else:
                classes = np.unique(column_or_1d(classes))
            unknown = np.setdiff1d(y, classes)
            if len(unknown):
                raise ValueError(
                    f"y holds classes that the first fit did not know: {unknown.tolist()}; they "
                    f"must be among {classes.tolist()}."
                )
            if len(classes) < 2:
                raise ValueError(
                    f"{type(self).__name__} needs at least 2 classes, but y holds one class: "
                    f"{classes.tolist()[0]!r}."
                )
            code = np.searchsorted(classes, y)
            if self.class_weight is not None:
                more = self._class_weights(y)
                weight = more if weight is None else weight * more
            if len(classes) == 2:
                encoded = code[None].astype(np.float64)
            else:
                encoded = (code[None] == np.arange(len(classes))[:, None]).astype(np.float64)
        if again and (multilabel != self._multilabel or len(classes) != len(self.classes_)):
            raise ValueError("warm_start=True: y has another number of labels than the first fit.")
        self.classes_, self._multilabel = classes, multilabel
        return encoded, weight  # (n_targets, n)

    def _class_weights(self, y) -> np.ndarray:
        """Weights of the rows by ``class_weight``."""
        given = self.class_weight
        if isinstance(given, dict) or (isinstance(given, str) and given == "balanced"):
            out = compute_sample_weight(given, y)
            if np.isfinite(out).all() and (out >= 0).all() and out.any():
                return out
        raise ValueError(
            f"class_weight={given!r} is not allowed; it must be None, 'balanced', or a dict from "
            "classes to finite weights >= 0 that are not all zero."
        )

    def _make_likelihood(self, targets, weight):
        if targets is None or self._multilabel or len(self.classes_) == 2:
            return Bernoulli()
        return Categorical()

    def _n_network_outputs(self, fitted: bool) -> int:
        if not fitted:
            return 1
        if self._multilabel:
            return len(self.classes_)
        return 1 if len(self.classes_) == 2 else len(self.classes_)

    # ------------------------------------------------------------- prediction

    def predict(self, X):
        """Most probable class under the posterior predictive.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples,), or (n_samples, n_labels) of 0 and 1
            Labels.
        """
        proba = self.predict_proba(X)
        if self._multilabel:
            return (proba > 0.5).astype(int)
        return self.classes_[proba.argmax(1)]

    def predict_proba(self, X):
        """Posterior predictive probabilities: the average of the draws' probabilities.

        With ``class_weight`` they refer to a population in which the classes have been weighted
        so, not to the one that the rows came from.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples, n_labels)
            Probabilities, in the order of ``classes_``; for several labels, of each being 1.
        """
        parts = [self._proba(outputs).mean(0) for _, _, outputs in self._chunks(X)]
        return np.concatenate(parts)

    def predict_log_proba(self, X):
        """Logarithm of `predict_proba`, exact also where that underflows.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), or (n_samples, n_labels)
            Logarithms of the averaged probabilities.
        """
        parts = []
        for _, theta, outputs in self._chunks(X):
            parts.append(logsumexp(self._log_proba(outputs), axis=0) - np.log(len(theta)))
        return np.concatenate(parts)

    def predict_uncertainty(self, X):
        """Total, aleatoric and epistemic uncertainty in nats.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        Uncertainty
            Named tuple of arrays (n_samples,), or (n_samples, n_labels): entropy of the averaged
            probabilities, mean entropy of the draws, and their difference, the mutual information
            of label and weights.
        """
        parts = [
            entropy_parts(self._proba(outputs), self._multilabel)
            for _, _, outputs in self._chunks(X, per_output=3)
        ]
        return Uncertainty(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def log_predictive_density(self, X, y):
        """Log probability of labels under the posterior predictive.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        y : array-like of shape (n_samples,) or (n_samples, n_labels)
            Labels; those that the fit did not see have log probability minus infinity.

        Returns
        -------
        ndarray of shape (n_samples,)
            For several labels the log of their joint probability, averaged over the draws.
        """
        logs = [logsumexp(part, axis=0) - np.log(len(part)) for part in self._log_densities(X, y)]
        return np.concatenate(logs)

    def _log_densities(self, X, y):
        """Log probability of the labels by each draw, (draws, rows), for chunks of rows in turn."""
        n = self._check_X(X).shape[0]
        y = check_targets(y, (n, len(self.classes_)) if self._multilabel else (n,))
        for rows, _, outputs in self._chunks(X):
            log_proba = self._log_proba(outputs)
            if self._multilabel:
                target = y[rows].astype(bool)
                not_one = np.moveaxis(log_expit(-outputs), 1, 2)
                joint = np.where(target, log_proba, not_one).sum(2)
            else:
                code = np.searchsorted(self.classes_, y[rows]).clip(0, len(self.classes_) - 1)
                joint = log_proba[:, np.arange(len(code)), code]
                joint[:, self.classes_[code] != y[rows]] = -np.inf
            yield joint

    def predict_draws(self, X, n_draws=None):
        """Each draw's own prediction, the same weights for every row.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        n_draws : int, optional
            At most that many draws, evenly spread over chains; default all.

        Returns
        -------
        ndarray of shape (n_draws, n_samples, n_classes), or (n_draws, n_samples, n_labels)
            Log probabilities (for several labels, of each being 1).
        """
        if n_draws is not None:
            n_draws = check_count("n_draws", n_draws)
        chunks = self._chunks(X, n_draws, joint=True)
        parts = [self._log_proba(outputs) for _, _, outputs in chunks]
        return np.concatenate(parts, 1)

    def sample_y(self, X, n_samples=1, random_state=None):
        """Draw labels from the posterior predictive, with the same weights across rows.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows.
        n_samples : int, default=1
            Draws.
        random_state : int, RandomState instance or None, default=None
            Seed.

        Returns
        -------
        ndarray of shape (n_rows, n_samples), or (n_rows, n_labels, n_samples)
            Labels.
        """
        rng = random_generator(random_state)
        out = []
        for _, outputs in self._sampled_functions(X, n_samples, rng):
            proba = self._proba(outputs[None])[0]
            if self._multilabel:
                out.append((rng.random(proba.shape) < proba).astype(int))
            else:
                below = proba.cumsum(1)[:, :-1] < rng.random((len(proba), 1))
                out.append(self.classes_[below.sum(1)])
        return np.stack(out, -1)

    def sample_prior(self, X, n_samples=1, random_state=None):
        """Functions drawn from the prior.

        Parameters
        ----------
        X : {array-like, CSR matrix} of shape (n_samples, n_features)
            Rows. Before `fit` they are standardised by their own moments, and the classes are
            two.
        n_samples : int, default=1
            Functions.
        random_state : int, RandomState instance or None, default=None
            Seed.

        Returns
        -------
        ndarray of shape (n_samples, n_rows, n_classes)
            Probabilities of each function.
        """
        _, _, outputs = self._prior_theta(X, n_samples, random_state)
        if hasattr(self, "posterior_"):
            return self._proba(outputs)
        if outputs.shape[1] > 1:  # a module says by itself how many classes there are
            return np.moveaxis(softmax(outputs, axis=1), 1, 2)
        p = expit(outputs[:, 0])
        return np.stack([1 - p, p], -1)

    def _proba(self, outputs: np.ndarray) -> np.ndarray:
        """Probabilities (draws, n, n_classes) for outputs (draws, n_outputs, n)."""
        if self._multilabel:
            return np.moveaxis(expit(outputs), 1, 2)
        if len(self.classes_) == 2:
            z = outputs[:, 0]
            return np.stack([expit(-z), expit(z)], -1)
        return np.moveaxis(softmax(outputs, axis=1), 1, 2)

    def _log_proba(self, outputs: np.ndarray) -> np.ndarray:
        """Log probabilities (draws, n, n_classes) for outputs (draws, n_outputs, n)."""
        if self._multilabel:
            return np.moveaxis(log_expit(outputs), 1, 2)
        if len(self.classes_) == 2:
            z = outputs[:, 0]
            return np.stack([log_expit(-z), log_expit(z)], -1)
        return np.moveaxis(log_softmax(outputs, axis=1), 1, 2)

    def _diagnostic_values(self, outputs, theta):
        proba = self._proba(outputs)
        # of two classes one says it all
        return proba[:, :, 1:] if proba.shape[2] == 2 and not self._multilabel else proba
