"""The contract of ActiveLearner."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.datasets import load_iris, make_classification
from sklearn.ensemble import (
    BaggingClassifier,
    RandomForestClassifier,
    RandomForestRegressor,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils.estimator_checks import parametrize_with_checks

from skbayes import ActiveLearner, BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.active import Acquisition, Budget, LowInformation, Power, Stability
from skbayes.active.draws import Draws
from skbayes.inference import HMC, Ensemble, EnsembleFilter, Laplace
from skbayes.model.priors import NormalPrior

X, TRUTH = load_iris(return_X_y=True)
FIRST = [0, 1, 60, 61, 120, 121]
ENSEMBLE = BayesianMLPClassifier(
    (4,), method=Ensemble(n_members=4, max_epochs=20, learning_rate=0.05), random_state=0
)


def partly(truth=TRUTH, rows=FIRST):
    y = np.full(len(truth), -1)
    y[rows] = truth[rows]
    return y


def learner(estimator=None, **kwargs):
    if estimator is None:
        estimator = LogisticRegression(max_iter=500)
    return ActiveLearner(estimator, random_state=0, **kwargs)


def expected_failed_checks(estimator):
    if is_regressor(estimator.estimator):
        return {"check_supervised_y_no_nan": "NaN marks rows without an answer"}
    return {
        "check_classifiers_classes": "the labels -1 and 1: -1 marks rows without a label",
        "check_supervised_y_no_nan": "NaN marks rows without a label",
    }


@parametrize_with_checks(
    [learner(LogisticRegression()), learner(Ridge())], expected_failed_checks=expected_failed_checks
)
def test_scikit_learn_checks(estimator, check):
    check(estimator)


# -------------------------------------------------------------------- the loop


def test_query_is_the_argmax_and_gives_utilities():
    model = learner().fit(X, partly())
    rows, utilities = model.query(return_utilities=True)
    p = np.sort(model.predict_proba(X), 1)
    want = 1 - p[:, -1] + p[:, -2]
    assert np.isnan(utilities[FIRST]).all()
    rest = np.setdiff1d(np.arange(150), FIRST)
    np.testing.assert_allclose(utilities[rest], want[rest], atol=1e-12)
    assert rows.tolist() == [np.nanargmax(utilities)]
    assert model.query().tolist() == rows.tolist()  # until something is taught


@pytest.mark.parametrize("batch", ["top", "power", Power(5.0)])
def test_batches_of_rows_without_labels(batch):
    model = learner(batch=batch).fit(X, partly())
    rows = model.query(20)
    assert len(set(rows.tolist())) == 20
    assert not set(rows.tolist()) & set(FIRST)
    assert len(model.query(1000)) == 144


def test_teach_skip_undo_and_what_is_labelled():
    model = learner().fit(X, partly())
    before = model.predict_proba(X)
    assert model.teach([5, 70], TRUTH[[5, 70]]) is model
    assert model.labels_[[5, 70]].tolist() == TRUTH[[5, 70]].tolist()
    rows, y, weight = model.labelled_()
    assert weight is None
    np.testing.assert_array_equal(rows, X[sorted([*FIRST, 5, 70])])
    np.testing.assert_array_equal(y, TRUTH[sorted([*FIRST, 5, 70])])
    assert model.n_answers_ == 2
    assert model.history_[-1]["indices"] == [5, 70]
    assert model.history_[-1]["n_labelled"] == 8
    model.skip(10)
    assert 10 not in model.query(1000)
    assert model.undo().tolist() == [10]
    assert 10 in model.query(1000)
    assert model.undo().tolist() == [5, 70]
    np.testing.assert_array_equal(model.predict_proba(X), before)
    assert model.undo().tolist() == []
    model.teach(0, 1).undo()  # a label that was there at first comes back
    assert model.labels_[0] == TRUTH[0]


def test_without_refit_labels_are_added_and_the_fit_waits():
    model = learner().fit(X, partly())
    model.teach([10, 80], TRUTH[[10, 80]], refit=False)
    assert len(model.history_) == 1
    want = LogisticRegression(max_iter=500).fit(*model.labelled_()[:2]).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), want)
    assert len(model.history_) == 2


def test_run_asks_an_oracle_and_skips_what_it_does_not_know():
    asked = []

    def oracle(indices, rows):
        np.testing.assert_array_equal(rows, X[indices])
        asked.extend(indices.tolist())
        answers = TRUTH[indices].copy()
        answers[indices % 5 == 0] = -1
        return answers

    model = learner().fit(X, partly()).run(oracle, 20, n_per_query=3)
    assert len(asked) == len(set(asked)) == 20
    known = [i for i in asked if i % 5]
    assert model.n_answers_ == len(known) < 20
    assert model.score(X, TRUTH) > 0.9
    assert model.score(X, model.labels_) == pytest.approx(
        model.estimator_.score(*model.labelled_()[:2])
    )


def test_active_labels_beat_random_ones():
    rng = np.random.default_rng(0)
    pool, truth = make_classification(400, 5, n_informative=3, n_redundant=0, random_state=3)
    first = np.concatenate([rng.choice(np.flatnonzero(truth == c), 3) for c in (0, 1)])
    scores = {}
    for name in ("margin", "random"):
        found = []
        for seed in range(3):
            model = ActiveLearner(LogisticRegression(), name, random_state=seed)
            model.fit(pool, partly(truth, first)).run(lambda i, _: truth[i], 30)
            found.append(model.score(pool, truth))
        scores[name] = np.mean(found)
    assert scores["margin"] > scores["random"]


def test_seed_makes_it_all():
    runs = [learner().fit(X, partly()).run(lambda i, _: TRUTH[i], 12, 4) for _ in range(2)]
    assert [h["indices"] for h in runs[0].history_] == [h["indices"] for h in runs[1].history_]
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    runs[0].query(5)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_weights_reach_the_estimator_also_in_pipelines():
    weight = np.ones(150)
    weight[0] = 7.0
    plain = learner().fit(X, partly(), sample_weight=weight)
    want = LogisticRegression(max_iter=500).fit(X[FIRST], TRUTH[FIRST], weight[FIRST])
    np.testing.assert_allclose(plain.predict_proba(X), want.predict_proba(X))
    plain.teach([9, 10], TRUTH[[9, 10]], sample_weight=[2.0, 3.0])
    np.testing.assert_array_equal(plain.labelled_()[2][:4], [7, 1, 2, 3])
    inner = make_pipeline("passthrough", make_pipeline(LogisticRegression(max_iter=500)))
    nested = learner(inner).fit(X, partly(), sample_weight=weight)
    np.testing.assert_allclose(nested.predict_proba(X), want.predict_proba(X))


# ----------------------------------------------------------------------- labels


def test_no_labels_at_all():
    model = learner().fit(X)
    assert model.missing_label_ is None
    with pytest.raises(NotFittedError, match="no labels"):
        model.predict(X)
    assert not hasattr(model, "classes_")
    first = model.query(3)
    assert len(set(first.tolist())) == 3
    model.teach(0, 0)  # one class, with which a logistic regression cannot be fitted
    assert not hasattr(model, "estimator_")
    model.teach([60, 120], [1, 2])
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.score(X, TRUTH) > 0.6
    regression = ActiveLearner(Ridge(), "random").fit(X)
    assert np.isnan(regression.labels_).all()
    regression.teach(regression.query(4), [1.0, 2.0, 3.0, 4.0])
    assert regression.n_answers_ == 4


def test_new_classes_in_mid_loop():
    y = partly(rows=[0, 1, 60, 61])
    model = learner().fit(X, y)
    assert model.classes_.tolist() == [0, 1]
    model.teach(120, 2)
    assert model.classes_.tolist() == [0, 1, 2]
    words = np.array(["cat", "dog"], dtype="<U3")[np.array([0, 1] * 75)].astype(object)
    words[4:] = None
    model = learner().fit(X, words)
    model.teach(100, "elephant")
    assert model.classes_.tolist() == ["cat", "dog", "elephant"]
    assert model.labels_[5] is None


@pytest.mark.parametrize(
    ("y", "marker"),
    [
        ([0, 1, -1, -1], -1),
        ([0.0, 1.0, np.nan, np.nan], np.nan),
        (["a", "b", None, None], None),
        ([0, 1, None, None], None),
        ([True, False, None, None], None),
    ],
)
def test_markers_by_the_kind_of_labels(y, marker):
    model = learner().fit(X[:4], y)
    assert repr(model.missing_label_) == repr(marker)
    assert sorted(model.query(4).tolist()) == [2, 3]
    model.teach(2, y[0])
    assert sorted(model.query(4).tolist()) == [3]
    assert len(model.classes_) == 2


def test_own_marker():
    y = np.array(["", "a", "b", ""])
    model = learner(missing_label="").fit(X[:4], y)
    assert sorted(model.query(4).tolist()) == [0, 3]
    assert model.teach(0, "a").labels_.tolist() == ["a", "a", "b", ""]
    y = np.array([99, 1, 2, 99])
    assert sorted(learner(missing_label=99).fit(X[:4], y).query(4).tolist()) == [0, 3]


def test_minus_one_among_the_classes():
    y = np.array([-1, 1, -1, 1])
    with pytest.raises(ValueError, match="classes="):
        learner().fit(X[:4], y)
    with pytest.raises(ValueError, match="-1 marks rows without a label"):
        learner().fit(X[:4], [0, 1, None, None]).teach(2, -1)
    model = learner(classes=[-1, 1]).fit(X[:4], y)
    assert model.classes_.tolist() == [-1, 1]
    some = np.array([-1, 1, np.nan, np.nan])
    model = learner(classes=[-1, 1]).fit(X[:4], some)
    assert sorted(model.query(4).tolist()) == [2, 3]
    assert model.teach(2, -1).n_answers_ == 1
    # -1 is a value like any other in a regression
    model = ActiveLearner(Ridge(), "random").fit(X[:4], [-1, 2, np.nan, 3])
    assert model.query().tolist() == [2]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.teach([3, 4], [0]), "1 labels, but there are 2"),
        (lambda m: m.teach([3, 3], [0, 1]), "twice"),
        (lambda m: m.teach(3, -1), "pass these rows to skip"),
        (lambda m: m.teach(150, 0), "from 0 to 149"),
        (lambda m: m.teach(-1, 0), "from 0 to 149"),
        (lambda m: m.teach(0.5, 0), "integers"),
        (lambda m: m.teach(3, 7), r"7, which is not among classes=\[0, 1, 2\]"),
        (lambda m: m.query(0), "n=0"),
        (lambda m: m.query(candidates=FIRST), "no row without a label"),
        (lambda m: m.run(None, 0), "budget=0"),
        (lambda m: m.run(lambda i, x: [0, 0], 1), "2 labels for 1 rows"),
    ],
)
def test_what_is_refused(call, message):
    model = learner(classes=[0, 1, 2]).fit(X, partly())
    with pytest.raises(ValueError, match=message):
        call(model)
    assert model.n_answers_ == 0


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"acquisition": "bold"}, "acquisition='bold' is not known"),
        ({"acquisition": 3}, "acquisition=3"),
        ({"acquisition": Acquisition(n_draws=1)}, "n_draws=1"),
        ({"acquisition": Acquisition(density=-1)}, "density=-1"),
        ({"acquisition": Acquisition(utility="x")}, "utility='x'"),
        ({"batch": "all"}, "batch='all'"),
        ({"stopping": "now"}, "stopping='now'"),
        ({"stopping": Budget(0)}, "n_answers=0"),
        ({"stopping": [Stability(2.0)]}, "threshold=2.0"),
        ({"classes": [1]}, "2 classes or more"),
        ({"classes": [0, 1], "missing_label": 0}, "missing_label=0 is among"),
        ({"estimator": StandardScaler()}, "classifier or a regressor"),
    ],
)
def test_parameters_that_are_refused(params, message):
    with pytest.raises(ValueError, match=message):
        clone(learner()).set_params(**params).fit(X, partly())


# ------------------------------------------------------------------- estimators


@pytest.mark.parametrize(
    "estimator",
    [
        GaussianNB(),
        DecisionTreeClassifier(random_state=0),
        LinearSVC(),
        RandomForestClassifier(10, random_state=0),
        make_pipeline(StandardScaler(), LogisticRegression()),
        GridSearchCV(LogisticRegression(max_iter=500), {"C": [0.1, 1.0]}, cv=2),
        make_pipeline(StandardScaler(), ENSEMBLE),
    ],
    ids=lambda e: type(e).__name__,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_any_classifier(estimator):
    model = learner(estimator).fit(X, partly()).run(lambda i, _: TRUTH[i], 4, 2)
    assert is_classifier(model)
    assert model.score(X, TRUTH) > 0.6
    assert hasattr(model, "predict_proba") == hasattr(estimator, "predict_proba")
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.query(3), model.query(3))


def test_members_of_committees_are_draws():
    members = [("a", GaussianNB()), ("b", LogisticRegression(max_iter=500))]
    vote = VotingClassifier(members, voting="soft")
    for committee in (
        RandomForestClassifier(7, random_state=0),
        BaggingClassifier(GaussianNB(), 7, max_features=0.5, random_state=0),
        vote,
    ):
        fitted = committee.fit(X[30:90], np.array(["no", "yes"])[TRUTH[30:90]])
        draws = Draws(fitted)
        assert draws.several
        proba = np.exp(draws(X[::10]))
        np.testing.assert_allclose(proba.sum(2), 1.0)
        np.testing.assert_allclose(proba.mean(0), fitted.predict_proba(X[::10]), atol=1e-12)
    forest = RandomForestRegressor(7, random_state=0).fit(X, X[:, 0])
    np.testing.assert_allclose(Draws(forest)(X).mean.mean(0), forest.predict(X))
    model = learner(RandomForestRegressor(7, random_state=0)).fit(
        X, np.where(np.arange(150) % 15 == 0, X[:, 0], np.nan)
    )
    rows, utilities = model.query(return_utilities=True)
    assert rows[0] == np.nanargmax(utilities)


def test_gaussian_process_is_asked_for_its_deviation():
    x = np.linspace(0, 1, 50)[:, None]
    y = np.full(50, np.nan)
    y[[0, 10, 20]] = [0.0, 1.0, 0.5]
    model = learner(GaussianProcessRegressor()).fit(x, y)
    std = model.predict(x, return_std=True)[1]
    assert std[model.query()[0]] == std[np.isnan(y)].max()
    with pytest.raises(ValueError, match=r"needs draws.*'variance'"):
        learner(GaussianProcessRegressor(), acquisition="epig").fit(x, y).query()
    with pytest.raises(ValueError, match=r"not for regressors.*'variance'"):
        learner(Ridge(), acquisition="margin").fit(x, y).query()
    with pytest.raises(ValueError, match="only acquisition='random'"):
        learner(Ridge()).fit(x, y).query()


NAMES = ["random", "margin", "entropy", "least_confident", "variance", "bald", "epig"]


@pytest.mark.parametrize(
    "acquisition",
    [
        *NAMES,
        "core_mse",
        "expected_error",
        "qbc",
        "expected_utility",
        Acquisition("bald", density=1.0, distance=0.5, n_draws=3),
        Acquisition("expected_utility", utility=lambda p: (p**3).sum(-1), n_targets=10),
        Acquisition("epig", targets=X[:5]),
    ],
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_all_functions_through_a_pipeline(acquisition):
    model = learner(make_pipeline(StandardScaler(), ENSEMBLE), acquisition=acquisition)
    rows, utilities = model.fit(X, partly()).query(return_utilities=True)
    assert np.isfinite(utilities).sum() == 144
    assert utilities[rows[0]] == np.nanmax(utilities)
    assert len(set(model.query(5).tolist())) == 5


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_batches_from_draws():
    model = learner(ENSEMBLE, batch="batch_bald").fit(X, partly())
    assert len(set(model.query(4).tolist())) == 4
    with pytest.raises(ValueError, match="needs draws"):
        learner(batch="batch_bald").fit(X, partly()).query(2)
    y = np.full(150, np.nan)
    y[::10] = X[::10, 0]
    regressor = BayesianMLPRegressor((), method=Laplace(n_draws=30), noise=0.3, random_state=0)
    for name in ("auto", "variance", "bald", "epig", "expected_error", "qbc", "random"):
        model = learner(regressor, acquisition=name, batch="log_det").fit(X, y)
        assert len(set(model.query(4).tolist())) == 4
    with pytest.raises(ValueError, match="not for regressors"):
        learner(regressor, acquisition="core_mse").fit(X, y).query()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_utilities_do_not_depend_on_blocks(monkeypatch):
    model = learner(ENSEMBLE).fit(X, partly())
    whole = model.query(return_utilities=True)[1]
    monkeypatch.setattr("skbayes.active.draws.BLOCK", 1)
    np.testing.assert_allclose(model.query(return_utilities=True)[1], whole, rtol=1e-9, atol=1e-12)


def test_density_and_distance():
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(60, 2)), [[30.0, 0.0]]])
    y = np.full(61, -1)
    y[:4] = [0, 1, 0, 1]
    plain = Acquisition("random")
    utilities = {}
    for name, options in {"density": {"density": 1.0}, "distance": {"distance": 1.0}}.items():
        model = learner(acquisition=clone(plain).set_params(**options)).fit(x, y)
        with_it = model.query(return_utilities=True)[1]
        without = learner(acquisition="random").fit(x, y).query(return_utilities=True)[1]
        utilities[name] = with_it / without
    assert np.nanargmin(utilities["density"]) == 60
    assert np.nanargmax(utilities["distance"]) == 60
    d = np.linalg.norm((x[4:, None] - x[:4]) / x.std(0), axis=2).min(1)
    ratio = utilities["distance"][4:] / d
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)


def test_other_rows_may_be_asked_about():
    model = learner().fit(X[:100], np.where(np.arange(100) % 20 == 0, TRUTH[:100], -1))
    rows, utilities = model.query(2, X=X[100:], candidates=[0, 3, 5], return_utilities=True)
    assert set(rows.tolist()) <= {0, 3, 5}
    assert len(utilities) == 50


def test_texts_sparse_rows_and_frames():
    texts = [f"{'good fine' if i % 2 else 'bad awful'} word{i % 7}" for i in range(40)]
    y = np.where(np.arange(40) < 6, np.arange(40) % 2, -1)
    text = learner(make_pipeline(TfidfVectorizer(), LogisticRegression())).fit(texts, y)
    text.run(lambda i, rows: [int("good" in row) for row in rows], 5)
    assert text.score(texts, np.arange(40) % 2) == 1.0
    assert isinstance(text.labelled_()[0], list)
    weighted = Acquisition(density=1.0, distance=1.0)
    rows = TfidfVectorizer().fit_transform(texts)
    sparse = learner(acquisition=weighted).fit(rows, y).run(lambda i, _: i % 2, 5, 2)
    assert sp.issparse(sparse.labelled_()[0])
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    model = learner(acquisition=weighted).fit(frame, pd.Series(partly())).teach(5, 0)
    assert model.feature_names_in_.tolist() == list("abcd")
    assert isinstance(model.labelled_()[0], pd.DataFrame)
    column = pd.Series(partly(), dtype="Int64").mask(lambda s: s == -1)
    assert sorted(learner().fit(frame, column).query(150).tolist()) == sorted(
        np.flatnonzero(partly() == -1).tolist()
    )


def test_searches_around_it():
    search = GridSearchCV(
        learner(acquisition=Acquisition("margin")),
        {"estimator__C": [0.1, 1.0], "acquisition__density": [0.0, 1.0]},
        cv=3,
    ).fit(X, TRUTH)
    assert search.best_score_ > 0.9
    assert (cross_val_score(learner(), X, TRUTH, cv=3) > 0.9).all()
    partial = cross_val_score(learner(), X, np.where(np.arange(150) % 3, TRUTH, -1), cv=3)
    assert (partial > 0.8).all()  # rows without labels are left out of the score


# -------------------------------------------------------------------- warm start


def test_warm_start_goes_on():
    inner = SGDClassifier(warm_start=True, max_iter=5, tol=None, random_state=0)
    model = learner(inner).fit(X, partly())
    first = model.estimator_
    seen = first.t_
    model.teach(10, 0)
    assert model.estimator_ is first
    assert model.estimator_.t_ != seen
    forest = learner(RandomForestClassifier(5, warm_start=True, random_state=0)).fit(X, partly())
    first = forest.estimator_
    assert forest.teach(10, 0).estimator_ is not first  # which would add no tree


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_warm_start_in_a_pipeline_keeps_what_comes_before():
    inner = clone(ENSEMBLE).set_params(warm_start=True, standardize=False)
    model = learner(make_pipeline(StandardScaler(), inner)).fit(X, partly(rows=FIRST[:4]))
    np.testing.assert_allclose(model.estimator_[0].mean_, X.mean(0))  # of the pool
    final = model.estimator_[-1]
    before = final.posterior_.last_state.copy()
    model.teach(5, 0)
    assert model.estimator_[-1] is final
    assert np.abs(final.posterior_.last_state - before).max() < 2.0
    model.teach(120, 2)  # a new class: begun anew
    assert model.estimator_[-1] is not final
    assert model.classes_.tolist() == [0, 1, 2]
    np.testing.assert_allclose(model.estimator_[0].mean_, X.mean(0))


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_filters_and_chains_go_on_with_new_rows():
    method = EnsembleFilter(3, max_epochs=5)
    inner = clone(ENSEMBLE).set_params(warm_start=True, method=method)
    model = learner(make_pipeline(StandardScaler(), inner)).fit(X, partly())
    final = model.estimator_[-1]
    model.teach([10, 80], TRUTH[[10, 80]])
    assert model.estimator_[-1] is final
    assert final._reservoir.n_seen == 8
    np.testing.assert_array_equal(final._reservoir.y[-2:], TRUTH[[10, 80]])
    model.teach(10, 1)  # another label: the rows seen before are not what they were
    assert model.estimator_[-1]._reservoir.n_seen == 8
    assert model.estimator_[-1] is not final
    chains = BayesianMLPClassifier(
        (), method=HMC(2, n_warmup=3, n_draws=4, init="prior"), warm_start=True, random_state=0
    )
    model = learner(chains).fit(X, partly())
    final = model.estimator_
    assert model.teach(10, 0).estimator_ is final


# ---------------------------------------------------------------------- stopping


def test_budget_and_stability_stop():
    oracle = lambda i, _: TRUTH[i]  # noqa: E731
    model = learner(stopping=Budget(5)).fit(X, partly()).run(oracle, 50)
    assert model.n_answers_ == 5
    assert "Budget" in model.stop_reason_
    model = learner(stopping=[Budget(140), Stability()]).fit(X, partly()).run(oracle, 144)
    assert "Stability" in model.stop_reason_
    assert 3 <= model.n_answers_ < 140
    assert model.score(X, TRUTH) > 0.9


def test_agreement_of_numbers_is_concordance():
    y = np.where(np.arange(150) < 5, X[:, 0], np.nan)
    model = learner(Ridge(), acquisition="random", stopping=Stability(0.999)).fit(X, y)
    model.run(lambda i, _: X[i, 0], 100)
    assert "Stability" in model.stop_reason_


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_low_information_stops():
    model = learner(ENSEMBLE, stopping=LowInformation(10.0)).fit(X, partly())
    assert "nats" in model.stop_reason_
    model = learner(ENSEMBLE, stopping=LowInformation(1e-9)).fit(X, partly())
    assert model.stop_reason_ is None
    with pytest.raises(ValueError, match="needs draws"):
        learner(stopping=LowInformation()).fit(X, partly())


@pytest.mark.slow
def test_networks_find_a_function_with_fewer_requests_than_at_random():
    x = np.linspace(0, 1, 201)
    truth, inside = np.sin(14 * x**2), ((x - x.mean()) / x.std())[:, None]
    errors = {"variance": [], "random": []}
    for seed in range(2):
        rng = np.random.default_rng(seed)
        noisy = truth + 0.05 * rng.standard_normal(201)
        y = np.full(201, np.nan)
        first = rng.choice(201, 3, replace=False)
        y[first] = noisy[first]
        network = BayesianMLPRegressor(
            (50,),
            activation="tanh",
            method="anchored",
            prior=NormalPrior(5.0, fan_in=True),
            noise=0.05,
            standardize=False,
            warm_start=True,
            random_state=seed,
        )
        for name, found in errors.items():
            model = ActiveLearner(network, name, random_state=seed).fit(inside, y)
            model.run(lambda rows, _, noisy=noisy: noisy[rows], 15)
            found.append(np.sqrt(np.mean((model.predict(inside) - truth) ** 2)))
    assert np.mean(errors["variance"]) <= 0.5 * np.mean(errors["random"])


@pytest.mark.parametrize(("n_classes", "name"), [(2, "bald"), (3, "margin")])
def test_auto_goes_by_the_number_of_classes(n_classes, name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 2))
    y = np.where(np.arange(30) < 9, np.arange(30) % n_classes, -1)
    forest = RandomForestClassifier(5, random_state=0)
    assert ActiveLearner(forest, random_state=0).fit(X, y).acquisition_name_ == name
