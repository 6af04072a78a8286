"""Training of variational dropout that is killed and goes on."""

import numpy as np
import pytest

from skbayes import BayesianMLPClassifier, VariationalDropoutClassifier
from skbayes.inference.ascent import FusedAdam
from skbayes.inference.ascent_store import AscentStore

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 5))
Y = X[:, 0] + 0.3 * RNG.normal(size=90) > 0


class Killed(BaseException):
    pass


def model(**kwargs):
    settings = {"max_epochs": 8, "batch_size": 32, "random_state": 0} | kwargs
    return VariationalDropoutClassifier((6,), **settings)


def kill_at(monkeypatch, step):
    """Let the process die in a step, after it has drawn its random numbers."""
    run = FusedAdam.step

    def dying(self, grads, rate):
        if self.t == step:
            raise Killed
        run(self, grads, rate)

    monkeypatch.setattr(FusedAdam, "step", dying)


@pytest.mark.parametrize("kind", ["sparse", "group", "variational"])
def test_killed_training_goes_on_as_if_it_had_not_been(kind, tmp_path, monkeypatch):
    whole = model(kind=kind).fit(X, Y)
    monkeypatch.setattr(AscentStore, "due", lambda self: True)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, 13)  # three steps an epoch: the fifth is half done
        model(kind=kind).fit(X, Y, checkpoint=tmp_path)
    (file,) = tmp_path.iterdir()
    saved = AscentStore(tmp_path, file.stem).path
    assert saved == file
    steps = []
    run = FusedAdam.step
    with monkeypatch.context() as patch:
        patch.setattr(FusedAdam, "step", lambda s, g, r: (steps.append(1), run(s, g, r))[1])
        again = model(kind=kind).fit(X, Y, checkpoint=tmp_path)
    assert len(steps) == 8 * 3 - 12
    np.testing.assert_array_equal(again.posterior_.draws, whole.posterior_.draws)
    np.testing.assert_array_equal(again.loss_curve_, whole.loss_curve_)
    for name, curve in whole.sparsity_curve_.items():
        np.testing.assert_array_equal(again.sparsity_curve_[name], curve)
    # a finished fit is loaded
    with monkeypatch.context() as patch:
        kill_at(patch, 0)
        loaded = model(kind=kind).fit(X, Y, checkpoint=tmp_path)
    np.testing.assert_array_equal(loaded.posterior_.draws, whole.posterior_.draws)
    # another fit has a place of its own
    model(kind=kind, max_epochs=2).fit(X, Y, checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_broken_file_is_ignored(tmp_path, monkeypatch):
    whole = model().fit(X, Y, checkpoint=tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(file.read_bytes()[:200])
    with pytest.warns(UserWarning, match="is ignored"):
        again = model().fit(X, Y, checkpoint=tmp_path)
    np.testing.assert_array_equal(again.posterior_.draws, whole.posterior_.draws)


def test_what_cannot_be_kept(tmp_path):
    with pytest.raises(ValueError, match="not allowed with MAP"):
        BayesianMLPClassifier(method="map", random_state=0).fit(X, Y, checkpoint=tmp_path)
    with pytest.raises(ValueError, match="random_state=None is not allowed with a checkpoint"):
        model(random_state=None).fit(X, Y, checkpoint=tmp_path)
