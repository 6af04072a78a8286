"""When the estimator inside ActiveLearner is fitted, to what, and what a failure leaves."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, SGDClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from skbayes import ActiveLearner, BayesianMLPClassifier
from skbayes.inference import EnsembleFilter

X, TRUTH = load_iris(return_X_y=True)
FIRST = [0, 1, 60, 61, 120, 121]


def partly(rows=FIRST):
    y = np.full(150, -1)
    y[rows] = TRUTH[rows]
    return y


class Fragile(LogisticRegression):
    """Fails where a flag says so."""

    error = None

    def fit(self, X, y, sample_weight=None):
        if Fragile.error is not None:
            raise Fragile.error
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("warm_start", [False, True])
def test_a_fit_that_fails_leaves_no_stale_model(error, warm_start, monkeypatch):
    inner = Fragile(max_iter=500, warm_start=warm_start)
    model = ActiveLearner(inner, random_state=0).fit(X, partly())
    monkeypatch.setattr(Fragile, "error", error("no memory"))
    with pytest.raises(error):
        model.teach(5, 2)
    assert model.labels_[5] == 2  # which is kept
    for ask in (lambda: model.predict(X), model.query, lambda: model.classes_):
        with pytest.raises(error):
            ask()
    monkeypatch.setattr(Fragile, "error", None)
    want = LogisticRegression(max_iter=500).fit(*model.labelled_()[:2])
    np.testing.assert_allclose(model.predict_proba(X), want.predict_proba(X), atol=1e-3)
    assert model.history_[-1]["indices"] == [5]


def network():
    method = EnsembleFilter(3, max_epochs=3)
    return BayesianMLPClassifier(
        (3,), method=method, standardize=False, warm_start=True, random_state=0
    )


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_a_filter_sees_what_was_taught_when_it_was_interrupted(monkeypatch):
    model = ActiveLearner(network(), random_state=0).fit(X, partly())
    with monkeypatch.context() as patch:
        patch.setattr(EnsembleFilter, "move", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.teach([10, 80], TRUTH[[10, 80]])
    model.predict(X)
    assert model.estimator_._reservoir.n_seen == 8
    # a weight that comes and goes
    model.teach(0, 0, sample_weight=[2.0]).undo()
    assert model.labelled_()[2] is None
    assert model.estimator_._reservoir.n_seen == 8
    model.teach(11, 0)
    assert model.estimator_._reservoir.n_seen == 9


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_too_few_labels_are_no_model_yet():
    search = GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=3)
    for inner, enough, message in (
        (search, 7, "n_splits=3 cannot be greater"),
        (KNeighborsClassifier(5), 5, "n_neighbors"),
    ):
        model = ActiveLearner(inner, "margin", classes=[0, 1, 2], random_state=0).fit(X)
        order = np.arange(150).reshape(3, 50).T.ravel()
        with pytest.warns(UserWarning, match=f"There is no model yet.*{message}"):
            for row in order[: enough - 1]:
                model.teach(row, TRUTH[row])
        assert not hasattr(model, "estimator_") and model.query(2).shape == (2,)
        row = order[enough - 1]
        assert model.teach(row, TRUTH[row]).predict(X).shape == (150,)
        with pytest.warns(UserWarning, match="no model yet"):
            model.undo()
        assert not hasattr(model, "estimator_")


def test_history_tells_of_all_answers():
    model = ActiveLearner(LogisticRegression(max_iter=500), random_state=0).fit(X, partly())
    model.teach([10, 80], TRUTH[[10, 80]], refit=False).teach(130, 2)
    assert model.history_[-1]["indices"] == [10, 80, 130]
    model.undo()
    assert model.history_[-1]["indices"] == []
    assert model.history_[-1]["taken_back"] == [130]
    n = len(model.history_)
    model.skip(7).undo()
    model.query()
    assert len(model.history_) == n  # a skip is no reason to fit


def test_classes_are_those_of_the_labels():
    model = ActiveLearner(LogisticRegression(max_iter=500), random_state=0)
    model.fit(X, partly(FIRST[:4])).teach(120, 2, refit=False)
    assert model.classes_.tolist() == [0, 1, 2]


def test_warm_pipelines_transform_the_labelled_rows_only(tmp_path):
    seen = []

    def spy(rows):
        seen.append(len(rows))
        return rows

    steps = [("spy", FunctionTransformer(spy)), ("scale", StandardScaler())]
    inner = Pipeline(
        [("pca", PCA(2)), ("inner", Pipeline([*steps, ("sgd", SGDClassifier(warm_start=True))]))],
        memory=str(tmp_path),
    )
    model = ActiveLearner(inner, random_state=0).fit(X, partly())
    np.testing.assert_allclose(model.estimator_[-1]["scale"].scale_, PCA(2).fit_transform(X).std(0))
    seen.clear()
    final = model.estimator_[-1][-1]
    model.teach(10, 0)
    assert max(seen) == 7
    assert model.estimator_[-1][-1] is final
    assert model.estimator_.memory == str(tmp_path)
    supervised = make_pipeline(SelectKBest(k=2), SGDClassifier(warm_start=True))
    with pytest.raises(ValueError, match="pass warm_start=False where it needs labels"):
        ActiveLearner(supervised).fit(X, partly())
