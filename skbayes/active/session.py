"""What an annotator sees of a learner, and does to it."""

from __future__ import annotations

import base64
import threading
from typing import Any

import numpy as np
import scipy.sparse as sp

from skbayes.active.page import png
from skbayes.active.rows import n_rows, take

MOST_CELLS = 200


class Session:
    """A learner and the row that it asks about, one request at a time.

    Parameters
    ----------
    learner : ActiveLearner
        Fitted.
    show : callable, optional
        ``show(i)`` gives what is shown for row i of the pool: a text, a picture (an array of two
        dimensions, or of three with the colours last), or a dict from names to values. Default:
        the row itself.
    image_shape : tuple of int, optional
        Shape of the pictures that rows of X hold as numbers.
    classes : list, optional
        Classes to choose from; default those of the learner.
    names : list of str, optional
        What they are called on the page.
    X_test, y_test : array-like, optional
        Rows that the learning curve is the score on. Without them it is the share of answers that
        the model had predicted, each before it was given.
    """

    def __init__(
        self,
        learner,
        show=None,
        image_shape=None,
        classes=None,
        names=None,
        X_test=None,
        y_test=None,
    ) -> None:
        self.learner, self.show, self.image_shape = learner, show, image_shape
        self.classes = self._classes(classes)
        self.names = [str(c) for c in self.classes] if names is None else [str(n) for n in names]
        if len(self.names) != len(self.classes):
            raise ValueError(
                f"names has {len(self.names)} entries, but there are {len(self.classes)} classes."
            )
        if (X_test is None) != (y_test is None):
            raise ValueError("X_test and y_test go together; pass both or none.")
        self._test = None if X_test is None else (X_test, y_test)
        self._hits: list[tuple[int, float]] = []  # rows, and whether the model had been right
        self._scores: list[float] = []
        self._marks: list[int] = []  # scores before each answer
        self._lock = threading.Lock()
        self._score()

    def _classes(self, given) -> list:
        learner = self.learner
        if learner._regression:
            return []
        if given is None:
            given = learner.classes
        if given is None:
            given = getattr(learner, "classes_", None)
        if given is None or len(given) < 2:
            raise ValueError(
                "The page must know the classes: pass classes= (of ActiveLearner, or here)."
            )
        return np.asarray(given).tolist()

    # ----------------------------------------------------------------- actions

    def state(self) -> dict[str, Any]:
        """All that the page shows."""
        with self._lock:
            return self._state()

    def label(self, body: dict[str, Any]) -> dict[str, Any]:
        """Teach a label; the next state."""
        with self._lock:
            item = self._item(body)
            if self.learner._regression:
                try:
                    value: Any = float(body.get("value", ""))
                except (TypeError, ValueError):
                    raise ValueError(f"{body.get('value')!r} is not a number.") from None
            else:
                choice = body.get("choice")
                if not isinstance(choice, int) or not 0 <= choice < len(self.classes):
                    raise ValueError(f"choice={choice!r} is not a class.")
                value = self.classes[choice]
            if self.learner._answered_meanwhile(item):
                return self._state(
                    message=f"Row {item} was answered or skipped meanwhile; here is the next."
                )
            known = self._model_error() is None and hasattr(self.learner, "estimator_")
            if known and not self.learner._regression:
                guess = self.learner.predict(take(self.learner.X_, np.array([item])))[0]
                hit = float(guess == value)
                self._hits = [(i, h) for i, h in self._hits if i != item] + [(item, hit)]
            self.learner.teach(item, value, refit=False)  # which is kept, whatever a fit says
            self._marks.append(len(self._scores))
            self._score()
            return self._state()

    def skip(self, body: dict[str, Any]) -> dict[str, Any]:
        """Skip a row; the next state."""
        with self._lock:
            self.learner.skip(self._item(body))
            return self._state()

    def undo(self, body: dict[str, Any]) -> dict[str, Any]:
        """Take the last answer back, and ask about its row again."""
        with self._lock:
            rows, was_label = self.learner._journal.undo()
            if not len(rows):
                raise ValueError("There is nothing to take back.")
            if was_label:
                self._hits = [(i, h) for i, h in self._hits if i not in rows]
                if self._marks:
                    self._scores = self._scores[: self._marks.pop()]
            return self._state(int(rows[0]))

    def _item(self, body: dict[str, Any]) -> int:
        item = body.get("item")
        if isinstance(item, bool) or not isinstance(item, int):
            raise ValueError(f"item={item!r} is not a row.")
        if not 0 <= item < n_rows(self.learner.X_):
            raise ValueError(f"item={item} is not a row of the pool.")
        return item

    def _score(self) -> None:
        if self._test is None or self._model_error() is not None:
            return
        if hasattr(self.learner, "estimator_"):
            self._scores.append(float(self.learner.score(*self._test)))

    def _model_error(self) -> Exception | None:
        """Bring the model up to date; why that cannot be done."""
        try:
            self.learner._bring_up_to_date()
        except Exception as error:
            return error
        return None

    # ------------------------------------------------------------------- state

    def _state(self, item: int | None = None, message: str = "") -> dict[str, Any]:
        learner = self.learner
        out: dict[str, Any] = {
            "regression": learner._regression,
            "classes": self.names,
            "done": False,
            "proba": None,
            "why": "",
            "message": message,
        }
        utility = float("nan")
        again, error = item is not None, self._model_error()
        if error is not None:
            # labelling goes on: what was answered is kept, and may be what a fit lacks
            left = np.flatnonzero(learner._journal.open_rows())
            out["done"] = not again and not len(left)
            if not again and len(left):
                item = int(np.random.default_rng(learner._journal.n_events).choice(left))
        elif item is None:
            try:
                rows, utilities = learner.query(return_utilities=True)
                item = int(rows[0])
                utility = float(utilities[item])
            except ValueError:
                if learner._journal.open_rows().any():
                    raise
                out["done"] = True
        if item is not None and not out["done"]:
            out.update(item=item, content=self._content(item), why=self._why(utility, again, error))
            out["proba"] = None if error is not None else self._proba(item)
        journal = learner._journal
        out.update(
            n_rows=n_rows(learner.X_),
            n_labelled=len(journal.labelled_rows()),
            n_skipped=int((~journal.open_rows()).sum()) - len(journal.labelled_rows()),
        )
        hits = np.array([hit for _, hit in self._hits])
        curve = (
            self._scores if self._test is not None else hits.cumsum() / np.arange(1, 1 + len(hits))
        )
        out["curve"] = [round(float(v), 4) for v in curve if np.isfinite(v)]
        out["score"] = f"{curve[-1]:.3f}" if len(curve) else None
        if self._test is None:
            out.update(score_name="predicted", caption="Share of answers that were predicted")
        else:
            out.update(score_name="score", caption="Score on the test rows after each answer")
        return out

    def _why(self, utility: float, again: bool, error: Exception | None) -> str:
        learner = self.learner
        if error is not None:
            return (
                "The model cannot be fitted to the answers, which are kept; rows are taken at "
                f"random. It says: {error}"
            )
        if again:
            return "This answer was taken back."
        if not hasattr(learner, "estimator_"):
            return "There is no model yet: rows are taken at random."
        return (
            f"Asked since it has the largest utility: {learner.acquisition_name_} = {utility:.4g}"
        )

    def _proba(self, item: int) -> list[float] | None:
        """Probabilities in the order of the page's classes."""
        learner = self.learner
        if learner._regression or not hasattr(learner, "predict_proba"):
            return None
        if not hasattr(learner, "estimator_"):
            return None
        proba = learner.predict_proba(take(learner.X_, np.array([item])))[0]
        known = dict(zip(learner.classes_.tolist(), proba.tolist(), strict=True))
        return [known.get(c, 0.0) for c in self.classes]

    def _content(self, item: int) -> dict[str, Any]:
        """What is shown for a row."""
        X = self.learner.X_
        value = self.show(item) if self.show is not None else None
        low, high = 0.0, 255.0
        if value is None:
            if hasattr(X, "iloc"):
                row = X.iloc[item]
                value = dict(row.items()) if hasattr(row, "items") else row
            elif sp.issparse(X):
                row = X.tocsr()[item]
                value = {str(j): v for j, v in zip(row.indices, row.data, strict=True)}
            else:
                value = X[item]
            if self.image_shape is not None and not isinstance(value, dict):
                value = np.asarray(value).reshape(self.image_shape)
        if isinstance(value, str):
            return {"kind": "text", "text": value}
        if isinstance(value, np.ndarray) and value.ndim >= 2:
            if value.dtype != np.uint8:
                low, high = float(value.min()), float(value.max())
            data = base64.b64encode(png(value, low, high)).decode()
            return {"kind": "image", "data": f"data:image/png;base64,{data}"}
        if not isinstance(value, dict):
            names = getattr(self.learner, "feature_names_in_", None)
            row = np.atleast_1d(value)
            labels = [f"x{j}" for j in range(len(row))] if names is None else list(names)
            value = dict(zip(labels, row, strict=True))
        cells = [[str(name), _text(v)] for name, v in list(value.items())[:MOST_CELLS]]
        return {"kind": "table", "cells": cells}


def _text(value: Any) -> str:
    """A cell of a table."""
    if isinstance(value, float | np.floating):
        return f"{value:.5g}"
    return str(value)
