"""skorch callbacks on methods of this package."""

import numpy as np
import pytest
import torch
from modules import Small
from sklearn.base import clone
from skorch.callbacks import (
    Callback,
    Checkpoint,
    EarlyStopping,
    EpochScoring,
    EpochTimer,
    Freezer,
    LRScheduler,
    PrintLog,
)

from skbayes import BayesianModuleClassifier, BayesianModuleRegressor
from skbayes.inference import HMC, MAP, SGLD, Anchored, Ensemble, Laplace

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
ADAM = MAP(solver="adam", max_epochs=6)


class Diary(Callback):
    """Writes down what it is told."""

    def initialize(self):
        self.events_, self.weights_ = [], []
        return self

    def on_train_begin(self, net, X=None, y=None, **kwargs):
        self.events_.append(("train begin", X.shape, y.shape))

    def on_epoch_begin(self, net, dataset_train=None, **kwargs):
        self.events_.append(("epoch begin", len(dataset_train)))

    def on_epoch_end(self, net, **kwargs):
        self.events_.append(("epoch end", net.history[-1, "epoch"], net.history[-1, "train_loss"]))
        self.weights_.append(net.module_[0].weight.detach().clone())

    def on_train_end(self, net, **kwargs):
        self.events_.append(("train end", len(net.history)))


def fit(data, callbacks, method=ADAM, **params):
    cls = BayesianModuleRegressor if data[1].dtype.kind == "f" else BayesianModuleClassifier
    return cls(Small, method=method, callbacks=callbacks, random_state=0, **params).fit(*data)


def test_order_of_events(binary):
    diary = Diary()
    model = fit(binary, [diary])
    names = [event[0] for event in diary.events_]
    # the last epoch was begun, since nobody knew that it was the last
    assert names == ["train begin", *["epoch begin", "epoch end"] * 6, "epoch begin", "train end"]
    assert diary.events_[0] == ("train begin", (60, 3), (60,)) and diary.events_[-1][1] == 6
    assert [event[1] for event in diary.events_ if event[0] == "epoch end"] == [1, 2, 3, 4, 5, 6]
    assert not torch.equal(diary.weights_[0], diary.weights_[-1])
    assert [row["epoch"] for row in model.history_] == [1, 2, 3, 4, 5, 6]
    assert all(type(row) is dict for row in model.history_)


def test_train_loss_is_the_negative_log_posterior_per_row(binary):
    model = fit(binary, [EpochTimer()], dtype="float64")
    losses = [row["train_loss"] for row in model.history_]
    # each epoch is one full-batch step here; the loss curve has the losses before the steps
    np.testing.assert_allclose(losses[:-1], model.loss_curve_[1:], rtol=1e-9)
    last = model.posterior_.stats["log_prob"][0, 0]
    np.testing.assert_allclose(losses[-1], -last / 60, rtol=1e-9)
    assert all(row["dur"] >= 0 for row in model.history_)
    best = [row["train_loss_best"] for row in model.history_]
    assert best == [loss < min(losses[:i], default=np.inf) for i, loss in enumerate(losses)]


def test_callbacks_change_nothing(binary):
    draws = [fit(binary, callbacks).posterior_.draws for callbacks in (None, [], [Diary()])]
    np.testing.assert_array_equal(draws[0], draws[1])
    np.testing.assert_array_equal(draws[0], draws[2])


def test_trials_of_a_power_are_not_epochs(binary):
    """Fits that only choose a parameter end no training early and write no history."""
    method = Anchored(4, solver="adam", max_epochs=40, bootstrap=False, likelihood_power="held_out")
    stop = EarlyStopping(monitor="train_loss", patience=3)
    model = fit(binary, [stop], method)
    assert hasattr(model, "posterior_") and len(model.history_) <= 40
    assert [row["epoch"] for row in model.history_] == list(range(1, len(model.history_) + 1))
    whole = fit(binary, [Diary()], method)
    assert len(whole.history_) == whole.n_iter_ == 40


@pytest.mark.parametrize(
    "method",
    [
        MAP(solver="adam", max_epochs=500),
        Ensemble(n_members=2, max_epochs=500),
        HMC(n_chains=2, n_warmup=0, n_draws=500, max_leapfrog=2, init=None),
    ],
)
def test_early_stopping(method, curve):
    stop = EarlyStopping(monitor="train_loss", patience=3, threshold=0.5, threshold_mode="abs")
    with pytest.warns(UserWarning, match="interrupted"):
        model = fit(curve, [stop], method, standardize=True)
    assert 3 <= len(model.history_) < 60
    assert model.posterior_.interrupted
    assert np.isfinite(model.predict(curve[0])).all()


def test_checkpoint_and_printing(binary, tmp_path, capsys):
    save = Checkpoint(dirname=tmp_path, monitor="train_loss_best")
    model = fit(binary, [("mine", save), EpochTimer, PrintLog], verbose=1)
    state = torch.load(tmp_path / "params.pt")
    assert {k: v.shape for k, v in state.items()} == {
        k: v.shape for k, v in model.posterior_.to_modules()[0].state_dict().items()
    }
    assert (tmp_path / "history.json").exists()
    assert "train_loss" in capsys.readouterr().out
    fit(binary, [EpochTimer, PrintLog])
    assert capsys.readouterr().out == ""


def test_callbacks_are_a_parameter(binary):
    model = BayesianModuleClassifier(Small, method=ADAM, callbacks=[Diary()])
    other = clone(model)
    assert other.callbacks[0] is not model.callbacks[0]
    other.fit(*binary)
    assert not hasattr(model.callbacks[0], "events_") and other.callbacks[0].events_
    assert not hasattr(clone(model).set_params(callbacks=None).fit(*binary), "history_")


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        (EpochTimer(), "it must be a list"),
        ([print], "it must be a skorch callback"),
        ([LRScheduler()], "LRScheduler is not allowed"),
        ([EarlyStopping()], "it may watch 'train_loss'\\."),
        ([EarlyStopping], "it may watch 'train_loss'\\."),
        ([("score", EpochScoring("accuracy"))], "EpochScoring is not allowed"),
        ([Freezer("first.*")], "Freezer is not allowed|ParamMapper is not allowed"),
    ],
)
def test_wrong_callbacks(callbacks, message, binary):
    with pytest.raises(ValueError, match=message):
        fit(binary, callbacks)


def test_callbacks_do_not_follow_processes(binary):
    with pytest.raises(ValueError, match="n_jobs=2 is not allowed with callbacks"):
        fit(binary, [EpochTimer()], n_jobs=2)


def test_partial_fit_tells_callbacks(curve):
    diary = Diary()
    method = SGLD(n_chains=1, n_warmup=1, n_draws=3, n_steps=3, init=ADAM)
    model = BayesianModuleRegressor(Small, method=method, callbacks=[diary], random_state=0)
    model.partial_fit(*curve)
    model.partial_fit(*curve)
    assert [event[0] for event in diary.events_].count("train end") == 1
    assert len(model.history_) >= 1


def test_the_last_layer_is_watched_while_its_prior_is_tuned(binary):
    method = Laplace(subset="last_layer", init=MAP("adam", max_epochs=3), tol=1e-6, max_rounds=5)
    diary = Diary()
    model = fit(binary, [diary], method, warm_start=True)
    losses = [row["train_loss"] for row in model.history_[3:]]
    assert len(losses) == 5 and len(set(losses)) == 5  # one for each round
    moved, stay = diary.weights_[-1], diary.weights_[2]
    assert torch.equal(moved, stay)  # the first layer
    model.fit(*binary)
    assert all(np.isfinite(row["train_loss"]) for row in model.history_)
