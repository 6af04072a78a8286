"""What ActiveLearner takes as labels, as rows, and as worth asking about."""

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.ensemble import BaggingClassifier, RandomForestClassifier, VotingClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.naive_bayes import GaussianNB

from skbayes import ActiveLearner
from skbayes.active import Acquisition, Budget, Stability
from skbayes.active.draws import Draws

X, TRUTH = load_iris(return_X_y=True)
WORDS = np.array(["a", "b", "c"], dtype=object)


def pool(kind, rows=(0, 60, 120)):
    """Labels of a few rows, of some kind."""
    rows = list(rows)
    if kind == "integers":
        y = np.full(150, -1)
        y[rows] = TRUTH[rows]
    elif kind == "floats":
        y = np.full(150, np.nan)
        y[rows] = TRUTH[rows]
    else:
        y = np.full(150, None, dtype=object)
        y[rows] = WORDS[TRUTH[rows]] if kind == "strings" else TRUTH[rows]
    return y


def learner(estimator=None, **kwargs):
    if estimator is None:
        estimator = LogisticRegression(max_iter=500)
    return ActiveLearner(estimator, random_state=0, **kwargs)


# ----------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ("kind", "rows", "y", "message"),
    [
        ("integers", 5, np.nan, "nan, which is no label"),
        ("integers", 5, None, "None, which is no label"),
        ("integers", 5, 1.5, "Unknown label type: 1.5"),
        ("integers", 5, np.inf, "Unknown label type: inf"),
        ("integers", 5, "zero", "'zero', a string, where other labels are numbers"),
        ("objects", 5, "zero", "'zero', a string, where other labels are numbers"),
        ("objects", 5, -1, "-1 marks rows without a label"),
        ("strings", 5, 0, "0, a number, where other labels are strings"),
        ("strings", [5, 6], ["a", 1], "1, a number"),
        ("strings", [5, 6], ["a", float("nan")], "nan, which is no label"),
        ("strings", 5, ("a", "b"), "2 labels, but there are 1"),
        ("strings", 5, b"a", "Unknown label type"),
        ("floats", 5, 0.5, "Unknown label type: 0.5"),
        ("floats", 5, -1.0, "-1 marks rows without a label"),
    ],
)
def test_labels_that_are_refused_before_they_are_written(kind, rows, y, message, tmp_path):
    model = learner().fit(X, pool(kind)).open_store(tmp_path / "labels.sqlite")
    with pytest.raises(ValueError, match=message):
        model.teach(rows, y)
    assert model.n_answers_ == 0
    assert model.teach(7, pool(kind)[0]).labels_[7] == pool(kind)[0]


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (np.where(np.isnan(pool("floats")), -1.0, TRUTH), "-1 marks rows without a label"),
        (["a", 1, *[None] * 148], "1, a number, where other labels are strings"),
        ([0.5, *[np.nan] * 149], "Unknown label type: 0.5"),
        ([0, np.nan, *[-1] * 148], "-1 marks rows"),
    ],
)
def test_pools_that_are_refused(y, message):
    with pytest.raises(ValueError, match=message):
        learner().fit(X, y)


def test_nan_among_strings_is_no_label():
    model = learner().fit(X[:4], ["a", "b", float("nan"), float("nan")])
    assert sorted(model.query(4).tolist()) == [2, 3]
    with pytest.raises(ValueError, match="nan, which is no label"):
        learner(missing_label=-1).fit(X[:4], [0, 1, np.nan, -1])
    with pytest.raises(ValueError, match="does not go with classes"):
        learner(classes=["a", "b"]).fit(X[:4], [-1, -1, -1, -1])


def test_score_leaves_rows_out_however_they_are_marked():
    model = learner().fit(X).teach([0, 60, 120], [0, 1, 2])
    known = pool("integers", range(0, 150, 5))
    rows = np.flatnonzero(known != -1)
    assert model.score(X, known) == model.estimator_.score(X[rows], TRUTH[rows])


def test_weights():
    weight = np.full(150, np.nan)
    weight[[0, 60, 120]] = [7.0, 1.0, 1.0]
    model = learner().fit(X, pool("integers"), sample_weight=weight)  # NaN where it is irrelevant
    model.teach(0, 0).teach(5, 0)
    np.testing.assert_array_equal(model.labelled_()[2], [7, 1, 1, 1])  # rows keep theirs


def test_an_oracle_that_errs_loses_no_good_answer():
    model = learner(classes=[0, 1, 2]).fit(X, pool("integers"))
    rows = model.query(10)

    def oracle(rows, _):
        answers = TRUTH[rows].astype(float)
        answers[3], answers[4] = 9, np.nan
        return answers

    with pytest.raises(ValueError, match=rf"rows \[{rows[3]}\] are not allowed, the 8 others"):
        model.run(oracle, 10, 10)
    assert model.n_answers_ == 8
    assert (model.labels_[rows[[3, 4]]] == -1).all()
    assert rows[3] in model.query(150) and rows[4] not in model.query(150)  # which was skipped
    assert model.run(lambda rows, _: TRUTH[rows][0], 1).n_answers_ == 9  # one label for one row


def test_rows_by_number_and_by_mask():
    model = learner().fit(X, pool("integers"))
    mask = np.arange(150) == 7
    assert model.query(candidates=mask).tolist() == model.query(candidates=7).tolist() == [7]
    assert model.teach(mask, 0).labels_[7] == 0
    with pytest.raises(ValueError) as error:
        model.query(candidates=np.ones(149, dtype=bool))
    assert len(str(error.value)) < 150


def test_skipping_nothing_is_no_event():
    model = learner().fit(X, pool("integers")).teach(5, 0).skip([])
    assert model.undo().tolist() == [5]


# -------------------------------------------------------------- what rows are worth


@pytest.mark.parametrize(
    "acquisition", ["epig", "random", Acquisition("margin", density=1.0, distance=1.0)]
)
def test_worth_does_not_depend_on_other_candidates(acquisition):
    forest = RandomForestClassifier(5, random_state=0)
    model = learner(forest, acquisition=acquisition).fit(X, pool("integers"))
    some = [10, 80, 130]
    whole = model.query(return_utilities=True)[1][some]
    few = model.query(candidates=some, return_utilities=True)[1][some]
    np.testing.assert_allclose(few, whole, rtol=1e-9)


def test_committees():
    one = RandomForestClassifier(1, random_state=0)
    assert learner(one).fit(X, pool("integers")).acquisition_name_ == "margin"
    with pytest.raises(ValueError, match="needs draws"):
        learner(one, acquisition="bald").fit(X, pool("integers")).query()
    forest = RandomForestClassifier(5, random_state=0).fit(X, TRUTH)
    assert Draws(forest, 2)(X).shape == (2, 150, 3)
    members = [("a", GaussianNB()), ("b", LogisticRegression(max_iter=500))]
    vote = VotingClassifier(members, voting="soft", weights=[1, 3]).fit(X, TRUTH)
    assert not Draws(vote).several


@pytest.mark.filterwarnings("error:X has feature names")
def test_committees_of_frames():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(X, columns=list("abcd"))
    for committee in (
        RandomForestClassifier(3, random_state=0),
        BaggingClassifier(GaussianNB(), 3, max_features=0.5, random_state=0),
    ):
        want = np.exp(Draws(committee.fit(X, TRUTH))(X))
        np.testing.assert_allclose(np.exp(Draws(committee.fit(frame, TRUTH))(frame)), want)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"corrected": "no"}, "corrected='no'"), ({"targets": X[:0]}, "targets has no rows")],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        learner(acquisition=Acquisition("epig", **options)).fit(X, pool("integers"))


# ---------------------------------------------------------------------- stopping


def test_stopping_rules_may_change_and_see_each_round_once():
    oracle = lambda rows, _: TRUTH[rows]  # noqa: E731
    model = learner(stopping=Budget(2)).fit(X, pool("integers")).run(oracle, 9)
    assert model.n_answers_ == 2
    assert model.set_params(stopping=None).run(oracle, 3).n_answers_ == 5
    assert model.stop_reason_ is None
    model.set_params(stopping=[Budget(7), Budget(99)]).run(oracle, 9)
    assert model.n_answers_ == 7
    model.undo()
    assert model.stop_reason_ is None
    # the same label three times is no three rounds in which predictions agreed
    model = learner(stopping=Stability()).fit(X, pool("integers", range(0, 150, 3)))
    for _ in range(4):
        model.teach(1, 0)
    assert model.stop_reason_ is None
    regression = learner(Ridge(), acquisition="random", stopping=Budget(1))
    assert regression.fit(X, pool("floats")).run(oracle, 5).n_answers_ == 1
