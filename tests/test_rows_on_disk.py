"""Memory maps and datasets in fit."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from skbayes import (
    BayesianMLPClassifier,
    BayesianMLPRegressor,
    BayesianModuleClassifier,
    BayesianModuleRegressor,
    rows_on_disk,
)
from skbayes.inference import MAP, METHODS, SGHMC, SGLD, minibatches
from skbayes.model import TensorInputs
from skbayes.rows_on_disk import RowsOnDisk

METHOD = SGHMC(n_chains=2, n_warmup=3, n_draws=5, n_steps=20, batch_size=20, init=MAP(max_epochs=5))


@pytest.fixture
def small(monkeypatch):
    """Memory maps of any size stay on disk, in small blocks."""
    monkeypatch.setattr(rows_on_disk, "LARGE", 0)
    monkeypatch.setattr(rows_on_disk, "PART_ROWS", 70)
    monkeypatch.setattr(minibatches, "BLOCK_ROWS", 10)
    monkeypatch.setattr(minibatches, "WINDOW_ROWS", 60)


@pytest.fixture
def table(tmp_path):
    """X (300, 3) as a memory map, and y."""
    rng = np.random.default_rng(0)
    X = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=(300, 3))
    X[:] = rng.normal([0, 5, -2], [1, 3, 0.1], size=(300, 3))
    y = X[:, 0] * 2 + np.sin(X[:, 1]) + 0.1 * rng.normal(size=300)
    return X, y


class Pairs(Dataset):
    """A dataset that is not tensors."""

    def __init__(self, X, y):
        self.X, self.y = X, y

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        return self.X[i], self.y[i]


@pytest.mark.usefixtures("small", "quiet")
def test_scalers_and_mode_are_those_of_rows_in_memory(table):
    X, y = table
    model = BayesianMLPRegressor(
        (4,), method=MAP(solver="lbfgs"), noise="learned", dtype="float64", random_state=0
    )
    inside = model.fit(np.array(X), y).predict(X)
    outside = model.fit(X, y).predict(X)
    np.testing.assert_allclose(outside, inside, rtol=1e-5)
    assert model.n_features_in_ == 3
    dataset = model.fit(Pairs(X, y)).predict(X)
    np.testing.assert_allclose(dataset, inside, rtol=1e-5)


@pytest.mark.usefixtures("small", "quiet")
@pytest.mark.parametrize(
    "method",
    [METHOD, SGLD(n_chains=2, n_warmup=3, n_draws=5, batch_size=20, init=MAP(max_epochs=20))],
)
def test_chains_on_disk_fit(table, method):
    X, y = table
    reg = BayesianMLPRegressor((8,), method=method, noise="learned", random_state=0).fit(X, y)
    assert reg.score(X, y) > 0.7
    again = BayesianMLPRegressor((8,), method=method, noise="learned", random_state=0).fit(X, y)
    np.testing.assert_array_equal(again.posterior_.draws, reg.posterior_.draws)


@pytest.mark.usefixtures("small", "quiet")
def test_never_all_rows_at_once(table, monkeypatch):
    X, y = table
    most = []
    read = RowsOnDisk.__getitem__

    def remember(self, rows):
        out = read(self, rows)
        most.append(len(out))
        return out

    monkeypatch.setattr(RowsOnDisk, "__getitem__", remember)
    monkeypatch.setattr("skbayes.inference.kernel.START_ROWS", 40)
    monkeypatch.setattr("skbayes.inference.stochastic.CURVATURE_ROWS", 40)
    monkeypatch.setattr("skbayes.base.DIAGNOSTIC_ROWS", 40)
    monkeypatch.setattr("skbayes.validation._chunks.__defaults__", (70,))
    BayesianMLPRegressor((4,), method=METHOD, random_state=0).fit(X, y)
    assert max(most) <= 70


@pytest.mark.usefixtures("small", "quiet")
def test_classes_and_weights(table):
    X, y = table
    labels = np.array(["low", "high"])[(y > y.mean()).astype(int)]
    clf = BayesianMLPClassifier((4,), method=METHOD, random_state=0)
    clf.fit(X, labels, sample_weight=np.linspace(0.5, 1.5, 300))
    assert clf.classes_.tolist() == ["high", "low"] and clf.score(X, labels) > 0.8


@pytest.mark.usefixtures("small", "quiet")
def test_a_module_on_a_dataset(table):
    X, y = table
    data = TensorDataset(torch.as_tensor(np.array(X)), torch.as_tensor((y > 0).astype(int)))
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2))
    clf = BayesianModuleClassifier(net, method=METHOD, random_state=0).fit(data)
    assert clf.predict_proba(np.array(X)).shape == (300, 2)


@pytest.mark.usefixtures("small", "quiet")
def test_checkpoints_know_the_rows(table, tmp_path):
    X, y = table
    reg = BayesianMLPRegressor((4,), method=METHOD, random_state=0)
    draws = reg.fit(X, y, checkpoint=tmp_path / "kept").posterior_.draws
    files = len(list((tmp_path / "kept").iterdir()))
    np.testing.assert_array_equal(
        reg.fit(X, y, checkpoint=tmp_path / "kept").posterior_.draws, draws
    )
    assert len(list((tmp_path / "kept").iterdir())) == files
    X[7, 1] += 1
    reg.fit(X, y, checkpoint=tmp_path / "kept")
    assert len(list((tmp_path / "kept").iterdir())) > files


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if not m.reads_from_disk])
def test_methods_that_need_all_rows_say_so(name, table):
    with pytest.raises(ValueError, match="not in memory; use one of .*'sghmc'"):
        BayesianMLPRegressor((4,), method=name).fit(*table)


@pytest.mark.usefixtures("small")
def test_wrong_rows(table):
    X, y = table
    reg = BayesianMLPRegressor((4,), method=METHOD)
    with pytest.raises(ValueError, match="y must be None"):
        reg.fit(Pairs(X, y), y)
    with pytest.raises(ValueError, match="y must not be None"):
        reg.fit(X)
    with pytest.raises(ValueError, match="without rows"):
        reg.fit(Pairs(X[:0], y[:0]))
    with pytest.raises(ValueError, match="pairs"):
        reg.fit(TensorDataset(torch.zeros(5, 2)))
    with pytest.raises(ValueError, match=r"pass its dataset \(X.dataset\)"):
        reg.fit(DataLoader(Pairs(X, y)))
    with pytest.raises(ValueError, match="row 3 is .2,., that of row 0 .1,."):
        reg.fit(Pairs([np.ones(1 + (i == 3)) for i in range(5)], [0.0] * 5))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        reg.fit(X, y[:-1])
    X[200, 1] = np.nan
    with pytest.raises(ValueError, match="X contains NaN"):
        reg.fit(X, y)

    class Endless(IterableDataset):
        def __iter__(self):
            yield X[0], y[0]

    with pytest.raises(ValueError, match="must have a length"):
        reg.fit(Endless())


def test_small_maps_are_loaded(table):
    X, y = table
    reg = BayesianMLPRegressor((4,), method=MAP(max_epochs=5), random_state=0)
    one = reg.fit(X, y).posterior_.draws
    with pytest.raises(ValueError, match="X=Pairs is not allowed here, only in fit"):
        reg.predict(Pairs(X, y))
    np.testing.assert_array_equal(one, reg.fit(np.array(X), y).posterior_.draws)


class Normalised(torch.nn.Sequential):
    """A module with batch normalisation."""

    def __init__(self, n_inputs=3):
        super().__init__(
            torch.nn.Linear(n_inputs, 4),
            torch.nn.BatchNorm1d(4),
            torch.nn.Tanh(),
            torch.nn.Linear(4, 1),
        )


@pytest.mark.usefixtures("small", "quiet")
def test_batch_normalisation_and_scaling_of_modules(table):
    X, y = table
    method = SGLD(n_chains=1, n_warmup=1, n_draws=3, n_steps=5, init=MAP("adam", max_epochs=2))
    kw = {"method": method, "standardize": True, "random_state": 0}
    reg = BayesianModuleRegressor(Normalised, **kw).fit(X, y)
    memory = BayesianModuleRegressor(Normalised, **kw).fit(np.array(X), y)
    np.testing.assert_allclose(reg._scaler.mean, memory._scaler.mean, rtol=1e-6)
    np.testing.assert_allclose(reg._scaler.scale, memory._scaler.scale, rtol=1e-6)
    theta = torch.as_tensor(reg.posterior_.flat[:, : reg._layout.n_params])
    rows = TensorInputs(reg._scaler.transform(np.array(X)), dtype=theta.dtype, device=theta.device)
    expected = reg._layout.network.statistics(theta, rows).numpy()
    found = reg.posterior_.flat[:, reg._layout.n_params :]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("small", "quiet")
def test_callbacks_with_rows_on_disk(table):
    """Passes over all rows, as for control variates, go through the disk when watched too."""
    X, y = table
    method = SGLD(
        n_chains=1,
        n_warmup=1,
        n_draws=3,
        n_steps=5,
        control_variates=True,
        init=MAP("adam", max_epochs=2),
    )
    net = torch.nn.Linear(3, 1)
    kw = {"method": method, "random_state": 0}
    alone = BayesianModuleRegressor(net, **kw).fit(X, y)
    pytest.importorskip("skorch")
    from skorch.callbacks import EpochTimer

    watched = BayesianModuleRegressor(net, callbacks=[EpochTimer()], **kw).fit(X, y)
    np.testing.assert_array_equal(alone.posterior_.draws, watched.posterior_.draws)
    assert len(watched.history_) > 0
