"""What a learner knows, and the file that keeps it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sklearn.exceptions import NotFittedError

from skbayes.active.journal import Journal
from skbayes.active.missing import known_labels
from skbayes.active.rows import take


class KeepingMixin:
    """Adds what is known of the pool, and the store."""

    X_: Any
    _journal: Journal

    if TYPE_CHECKING:

        def _bring_up_to_date(self) -> None:
            """Stand for what `DelegatingMixin` has."""

    def labelled_(self):
        """Rows that have labels.

        Returns
        -------
        X : rows
            Of the pool's own kind.
        y : ndarray of shape (n_labelled,)
            Labels.
        sample_weight : ndarray of shape (n_labelled,) or None
            Weights, None where there never were any.
        """
        journal = self._state()
        rows = journal.labelled_rows()
        weight = None if journal.weights is None else journal.weights[rows]
        return take(self.X_, rows), known_labels(journal.labels[rows]), weight

    @property
    def labels_(self):
        """Labels so far, (n_rows,), with ``missing_label_`` where there is none."""
        return self._state().labels.copy()

    @property
    def n_answers_(self):
        """Rows taught since `fit`."""
        return self._state().n_answers

    def open_store(self, path, annotator=None):
        """Keep all answers in a file from now on, and take those that are in it.

        What was answered before and the file lacks is put into it, also what came by another file.
        `fit` closes the file: it begins another pool.

        Parameters
        ----------
        path : str or path-like
            An SQLite file, made where it does not exist. Several learners on the same rows may
            have it open at once; `query` takes what others have answered meanwhile.
        annotator : str, optional
            Name that is written with the answers. `undo` takes back answers of the same name, or,
            without one, those that this learner gave itself.

        Returns
        -------
        self : object
            The learner.

        Raises
        ------
        ValueError
            If the file holds labels of another X, or such as are not allowed here. All is then as
            it was before.
        OSError
            If the file cannot be opened.
        """
        self._state().open_store(path, self.X_, annotator)
        self._bring_up_to_date()
        return self

    def close_store(self):
        """Close the file that `open_store` opened; the learner goes on without it."""
        if "_journal" in self.__dict__:
            self._journal.close()
        return self

    def _answered_meanwhile(self, row: int) -> bool:
        """Whether a row that was open is no longer, by what others have answered."""
        self._journal.sync()
        return not self._journal.open_rows()[row]

    def serve(self, **options):
        """Open a page for labelling in the browser, see `skbayes.active.serve.serve`.

        Parameters
        ----------
        **options : dict
            ``port``, ``show``, ``X_test``, ``y_test`` and others, see there.

        Returns
        -------
        LabellingServer
            The running server.
        """
        from skbayes.active.serve import serve

        self._state()
        return serve(self, **options)

    def _state(self) -> Journal:
        """The journal; an AttributeError too, as attributes that are not there yet need."""
        if "_journal" not in self.__dict__:
            raise NotFittedError("This ActiveLearner has no pool yet; call fit.")
        return self._journal
