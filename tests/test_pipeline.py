import numpy as np
import pytest
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import PolynomialFeatures, StandardScaler

from skbayes.pipeline import split_pipeline

X, y = make_classification(60, 4, random_state=0)
SCALED = (X - X.mean(0)) / X.std(0)


def search(estimator, name="C", **kwargs):
    return GridSearchCV(estimator, {name: [0.1, 1.0]}, cv=2, **kwargs)


def test_bare_estimator_is_returned_with_identity():
    model = LogisticRegression().fit(X, y)
    transformers, final = split_pipeline(model)
    assert final is model
    assert transformers(X) is X


@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        search(make_pipeline(StandardScaler(), LogisticRegression()), "logisticregression__C"),
        make_pipeline(StandardScaler(), search(LogisticRegression())),
        make_pipeline(StandardScaler(), make_pipeline(LogisticRegression())),
        make_pipeline(make_pipeline("passthrough", StandardScaler()), LogisticRegression()),
    ],
    ids=["pipeline", "search", "search_inside", "nested_last", "nested_first"],
)
def test_prediction_by_parts_equals_prediction_by_the_whole(model):
    model.fit(X, y)
    transformers, final = split_pipeline(model)
    assert isinstance(final, LogisticRegression)
    np.testing.assert_allclose(transformers(X), SCALED)
    np.testing.assert_array_equal(final.predict_proba(transformers(X)), model.predict_proba(X))


def test_transformers_are_applied_in_order():
    model = make_pipeline(
        StandardScaler(), make_pipeline(PolynomialFeatures(2), LogisticRegression())
    ).fit(X, y)
    transformers, _ = split_pipeline(model)
    np.testing.assert_allclose(transformers(X), PolynomialFeatures(2).fit_transform(SCALED))


def test_single_step_pipeline_is_identity():
    transformers, _ = split_pipeline(Pipeline([("model", LogisticRegression())]).fit(X, y))
    assert transformers(X) is X


@pytest.mark.parametrize("refit", [True, False])
def test_search_without_best_estimator_is_refused(refit):
    model = search(LogisticRegression(), refit=refit)
    if not refit:
        model.fit(X, y)
    with pytest.raises(ValueError, match="best_estimator_"):
        split_pipeline(model)
