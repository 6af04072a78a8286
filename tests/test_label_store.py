"""Labels are never lost."""

import json
import pickle
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, Ridge

from skbayes import ActiveLearner
from skbayes.active import LabelStore

X, TRUTH = load_iris(return_X_y=True)
FIRST = [0, 60, 120]


def learner(path=None, annotator=None, X=X, **kwargs):
    y = np.full(len(X), -1)
    y[FIRST] = TRUTH[FIRST]
    model = ActiveLearner(LogisticRegression(max_iter=300), random_state=0, **kwargs).fit(X, y)
    return model if path is None else model.open_store(path, annotator)


def written(path):
    connection = sqlite3.connect(path)
    found = connection.execute("SELECT kind, items, labels, annotator, time FROM events").fetchall()
    connection.close()
    return found


def test_every_answer_is_written_before_teach_returns(tmp_path):
    path = tmp_path / "labels.sqlite"
    model = learner(path, "eve")
    assert written(path) == []
    model.teach([5, 70], TRUTH[[5, 70]], sample_weight=[1.0, 2.0], refit=False)
    ((kind, items, labels, annotator, time),) = written(path)
    assert (kind, json.loads(items), json.loads(labels)) == ("label", [5, 70], [0, 1])
    assert annotator == "eve"
    assert time.endswith("+00:00")
    with pytest.raises(ValueError):
        model.teach([6], [-1])
    model.skip(7)
    model.undo()
    assert [row[0] for row in written(path)] == ["label", "skip", "undo"]


def test_reopening_resumes(tmp_path):
    path = tmp_path / "labels.sqlite"
    first = learner(path, "eve")
    first.run(lambda i, _: TRUTH[i], 6, 2).skip(100)
    first.teach(3, 1).undo()
    second = learner(path, "eve")
    np.testing.assert_array_equal(second.labels_, first.labels_)
    assert second.n_answers_ == 6
    np.testing.assert_array_equal(second.predict_proba(X), first.predict_proba(X))
    assert 100 not in second.query(150)
    assert second.query(3).tolist() == first.query(3).tolist()
    second.undo()  # the skip, which is the last thing that stands
    assert 100 in second.query(150)
    rows = second.undo()
    assert len(rows) == 2 and (second.labels_[rows] == -1).all()


def test_what_was_taught_without_a_file_is_put_into_it(tmp_path):
    path = tmp_path / "labels.sqlite"
    model = learner().teach([5, 70], TRUTH[[5, 70]])
    model.teach(9, 0).undo()
    model.open_store(path)
    model.close_store()
    model.teach(11, 0)
    model.open_store(path)
    assert [row[0] for row in written(path)] == ["label", "label"]
    assert learner(path).n_answers_ == model.n_answers_ == 3


def test_two_annotators(tmp_path):
    path = tmp_path / "labels.sqlite"
    eve, bob = learner(path, "eve"), learner(path, "bob")
    eve.teach(5, 0)
    assert 5 not in bob.query(150)  # taken over when it asks
    assert bob.n_answers_ == 1
    bob.teach(5, 1)  # the later answer counts
    eve.query()
    assert eve.labels_[5] == bob.labels_[5] == 1
    eve.undo()  # one's own only
    assert eve.labels_[5] == 1
    bob.undo()
    assert bob.labels_[5] == -1
    eve.query()
    assert eve.labels_[5] == -1


WRITER = """
import sys
import numpy as np
from skbayes.active.store import LabelStore
path, name, start = sys.argv[1], sys.argv[2], int(sys.argv[3])
store = LabelStore(path, "x", 150)
for i in range(start, start + 40):
    store.append("label", [i], [0], annotator=name)
"""


def test_two_processes_at_once(tmp_path):
    path = tmp_path / "labels.sqlite"
    root = str(Path(__file__).parents[1])
    jobs = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), name, start], cwd=root, env=None)
        for name, start in (("eve", "0"), ("bob", "40"))
    ]
    assert [job.wait(120) for job in jobs] == [0, 0]
    store = LabelStore(path, "x", 150)
    events = store.events()
    assert sorted(e.items[0] for e in events) == list(range(80))
    assert [e.id for e in events] == list(range(1, 81))
    store.close()


def test_other_rows_are_refused(tmp_path):
    path = tmp_path / "labels.sqlite"
    learner(path).close_store()
    with pytest.raises(ValueError, match="150 rows, X has 149"):
        learner(path, X=X[:149])
    changed = X.copy()
    changed[3, 0] += 1e-9
    with pytest.raises(ValueError, match="differ in content"):
        learner(path, X=changed)
    other = tmp_path / "text.sqlite"
    other.write_text("This is no database, but a text that is long enough to be read as one." * 20)
    with pytest.raises(ValueError, match="is not a label store"):
        learner(other)


def test_texts_and_frames_have_fingerprints(tmp_path):
    from skbayes.active.store import rows_fingerprint

    assert rows_fingerprint(["a", "b"]) != rows_fingerprint(["b", "a"])
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert rows_fingerprint(frame) == rows_fingerprint(frame.copy())
    assert rows_fingerprint(frame) != rows_fingerprint(frame.rename(columns={"a": "c"}))
    assert rows_fingerprint(frame) != rows_fingerprint(frame.assign(b=["x", "z"]))


def test_labels_of_all_kinds_come_back(tmp_path):
    for number, y in enumerate((["a", "b", None], [True, False, None], [1.5, 2.5, np.nan])):
        path = tmp_path / f"{number}.sqlite"
        kind = ActiveLearner(LogisticRegression() if number < 2 else Ridge(), "random")
        model = kind.fit(X[:3], y).open_store(path).teach(2, y[0])
        again = clone(kind).fit(X[:3], y).open_store(path)
        assert again.labels_.tolist() == model.labels_.tolist() == [*y[:2], y[0]]
        assert again.labels_.dtype == model.labels_.dtype


def test_copies_do_not_share_the_file(tmp_path):
    path = tmp_path / "labels.sqlite"
    model = learner(path)
    copied = pickle.loads(pickle.dumps(model))
    copied.teach(5, 0)
    clone(model).fit(X, TRUTH)
    assert written(path) == []
    model.fit(X, model.labels_).teach(6, 0)  # a new pool has no file
    assert written(path) == []


def test_another_store_takes_all_that_it_lacks(tmp_path):
    first, second = tmp_path / "a.sqlite", tmp_path / "b.sqlite"
    model = learner(first, "eve").teach([5, 70], TRUTH[[5, 70]])
    copied = pickle.loads(pickle.dumps(model))
    model.open_store(second).teach(6, 0)
    assert model.n_answers_ == 3
    assert [row[1] for row in written(second)] == ["[5, 70]", "[6]"]
    assert written(second)[0][3] == "eve"
    assert len(written(first)) == 1
    assert copied.open_store(tmp_path / "c.sqlite").n_answers_ == 2
    assert learner(tmp_path / "c.sqlite").n_answers_ == 2
    model.open_store(first)  # which has one of its answers already
    assert [row[1] for row in written(first)] == ["[5, 70]", "[6]"]


def test_what_is_taken_back_while_the_file_is_closed_stays_so(tmp_path):
    path = tmp_path / "labels.sqlite"
    model = learner(path).teach(5, 1).close_store()
    assert model.undo().tolist() == [5]
    assert model.open_store(path).labels_[5] == -1
    assert learner(path).n_answers_ == 0


def test_those_without_a_name_take_back_their_own_only(tmp_path):
    path = tmp_path / "labels.sqlite"
    one, other = learner(path), learner(path)
    one.teach(5, 0)
    other.teach(6, 0)
    assert one.undo().tolist() == [5]
    assert other.undo().tolist() == [6]
    assert one.teach(7, 0).close_store().open_store(path).undo().tolist() == [7]
    copied = pickle.loads(pickle.dumps(one)).open_store(path)
    copied.teach(8, 0)
    assert one.undo().tolist() == []


def test_labels_of_a_store_are_read_as_all_others(tmp_path):
    words, numbers, own = (tmp_path / name for name in ("words", "numbers", "own"))
    ActiveLearner(LogisticRegression()).fit(X).open_store(words).teach([0, 60], ["a", "b"])
    learner(numbers, classes=[0, 1, 2, 7]).teach(5, 7)
    for kwargs in ({}, {"classes": [0, 1, 2]}):
        model = learner(own, **kwargs)
        n = len(written(own))
        for path, message in ((words, "'string'|a string"), (numbers, "7")):
            if kwargs or path is words:
                with pytest.raises(ValueError, match=message):
                    model.open_store(path)
        model.teach(10 + n, 0)  # the file that was open still is, and takes answers
        assert len(written(own)) == n + 1
    assert len(written(words)) == len(written(numbers)) == 1
    late = ActiveLearner(LogisticRegression()).fit(X).open_store(numbers)  # which tells the classes
    with pytest.raises(ValueError, match="not among classes"):
        late.teach(0, 8)
    third = tmp_path / "third"
    learner(third).close_store()  # which tells the kind
    with pytest.raises(ValueError, match="other labels are numbers"):
        ActiveLearner(LogisticRegression()).fit(X).open_store(third).teach(0, "a")
    ActiveLearner(Ridge(), "random").fit(X).open_store(tmp_path / "fourth").teach(0, 0.5)
    with pytest.raises(ValueError, match="answers of a regression"):
        ActiveLearner(LogisticRegression()).fit(X).open_store(tmp_path / "fourth")


def test_a_fit_that_is_refused_leaves_the_file_open(tmp_path):
    path = tmp_path / "labels.sqlite"
    model = learner(path)
    with pytest.raises(ValueError):
        model.fit(X, np.full(149, 0))
    model.teach(5, 0)
    assert len(written(path)) == 1


def test_files_that_cannot_be_opened(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        learner(tmp_path / "nothing" / "labels.sqlite")
    with pytest.raises(OSError, match="cannot be opened"):
        learner(tmp_path)
    path = tmp_path / "labels.sqlite"
    learner(path).close_store()
    monkeypatch.setattr("skbayes.active.store.WAIT", 0.1)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    with pytest.raises(TimeoutError, match="locked by another process"):
        learner(path)
    other.close()
