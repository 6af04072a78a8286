"""Runs of chains that are kept on disk and go on where they were stopped."""

import json
import shutil

import numpy as np
import pytest
from chain_runs import CHAINS, START, Killed, same, short_run
from gaussian_target import correlated
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import GridSearchCV

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC, MAP, NUTS, Streams, checkpoint
from skbayes.inference.checkpoint import fingerprint
from skbayes.inference.kernel import GradientKernel
from skbayes.inference.stochastic import StochasticKernel

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")


@pytest.fixture
def model():
    return short_run()


@pytest.fixture
def every_iteration(monkeypatch):
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)


def kernel_class(method, data):
    """The class whose steps a method takes."""
    classes = []

    class Found(Exception):
        pass

    def remember(kernel, *args, **kwargs):
        classes.append(type(kernel))
        raise Found

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Found):
        for cls in (GradientKernel, StochasticKernel):
            patch.setattr(cls, "__init__", remember)
        BayesianMLPRegressor((3,), method=method).fit(*data)
    return classes[0]


def killed_fit(model, data, folder, iteration):
    """Fit until an iteration in which the process dies."""
    cls = kernel_class(model.method, data)
    step = cls.step

    def dying(self, streams, i):
        if i == iteration:
            streams.normal(3)  # what is half done must not count
            raise Killed
        return step(self, streams, i)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(cls, "step", dying)
        clone(model).fit(*data, checkpoint=folder)


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# ------------------------------------------------------------------- stopped runs


@pytest.mark.parametrize("iteration", [0, 1, 12, 23, 24, 25, 37, 43])
def test_a_run_that_was_killed_goes_on_bit_for_bit(
    model, curve, tmp_path, iteration, every_iteration
):
    whole = clone(model).fit(*curve)
    killed_fit(model, curve, tmp_path, iteration)
    before = files(tmp_path)
    again = clone(model).fit(*curve, checkpoint=tmp_path)
    same(again.posterior_, whole.posterior_)
    assert again.diagnostics_ == whole.diagnostics_
    after = files(tmp_path)
    assert all(after[path] == content for path, content in before.items())
    assert len(before) == iteration and len(after) == 44


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_method_goes_on(name, dtype, curve, tmp_path, every_iteration):
    method = clone(CHAINS[name])
    longer = {"n_warmup": 30} if "n_warmup" in method.get_params() else {"n_draws": 40}
    method.set_params(**longer)
    model = BayesianMLPRegressor((3,), method=method, dtype=dtype, random_state=0)
    whole = clone(model).fit(*curve)
    for stop in (17, 33):  # in a window of the warm-up, and after it
        killed_fit(model, curve, tmp_path / str(stop), stop)
        again = clone(model).fit(*curve, checkpoint=tmp_path / str(stop))
        same(again.posterior_, whole.posterior_)


LONGER = {"n_chains": 2, "n_warmup": 40, "n_draws": 4, "init": START}


@pytest.mark.parametrize(
    "method",
    [
        NUTS(**LONGER, max_tree_depth=3, metric="low_rank"),
        HMC(**LONGER, max_leapfrog=8, trajectory_length="chees", persistence=0.5),
    ],
)
def test_all_that_is_adapted_goes_on(method, curve, tmp_path, every_iteration):
    model = BayesianMLPRegressor((3,), method=method, random_state=0)
    whole = clone(model).fit(*curve)
    for stop in (20, 42):
        killed_fit(model, curve, tmp_path / str(stop), stop)
        same(clone(model).fit(*curve, checkpoint=tmp_path / str(stop)).posterior_, whole.posterior_)


def test_files_of_many_iterations(model, curve, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint.GroupStore, "due", lambda self: next(ticks) % 7 == 0)
    ticks = iter(range(1, 1000))
    killed_fit(model, curve, tmp_path, 37)
    names = sorted(path.name for path in files(tmp_path))
    assert names[:2] == ["000000000-000000007.npz", "000000007-000000014.npz"]
    assert len(names) == 5
    again = clone(model).fit(*curve, checkpoint=tmp_path)
    same(again.posterior_, clone(model).fit(*curve).posterior_)


def test_files_of_two_processes_at_once(model, curve, tmp_path, monkeypatch):
    """Both wrote the same run, each at its own times: their files can be mixed."""
    for number, stop in ((7, 30), (5, 40)):
        ticks = iter(range(1, 1000))
        monkeypatch.setattr(
            checkpoint.GroupStore, "due", lambda self, t=ticks, n=number: next(t) % n == 0
        )
        killed_fit(model, curve, tmp_path / str(number), stop)
    shutil.copytree(tmp_path / "5", tmp_path / "7", dirs_exist_ok=True)
    before = files(tmp_path / "7")
    assert len(before) == 4 + 8
    again = clone(model).fit(*curve, checkpoint=tmp_path / "7")
    same(again.posterior_, clone(model).fit(*curve).posterior_)
    after = files(tmp_path / "7")
    assert all(after[path] == content for path, content in before.items())


def test_a_file_with_the_wrong_name_is_ignored(model, curve, tmp_path, every_iteration):
    killed_fit(model, curve, tmp_path, 30)
    path = sorted(files(tmp_path))[27]
    path.rename(path.with_name("000000027-000000029.npz"))
    again = clone(model)
    with pytest.warns(RuntimeWarning, match="it does not end where its name says"):
        again.fit(*curve, checkpoint=tmp_path)
    same(again.posterior_, clone(model).fit(*curve).posterior_)


def test_value_and_gradient_are_not_computed_anew():
    """They would be, in a batch of another shape than in the step they came from."""
    method, target = HMC(2), correlated(3)
    kernel = method._kernel(target, target.sample(Streams(0, 2)))
    state = kernel.state()
    state["value"], state["grad"] = state["value"] + 1.0, state["grad"] + 1.0
    other = method._kernel(target, target.sample(Streams(1, 2)))
    other.restore(state)
    for name in ("theta", "value", "grad"):
        np.testing.assert_array_equal(getattr(other, name).numpy(), state[name])


def test_a_finished_run_is_only_loaded(model, curve, tmp_path, monkeypatch):
    first = clone(model).fit(*curve, checkpoint=tmp_path)
    before = files(tmp_path)
    assert len(before) == 1  # it took less than the time between two files
    monkeypatch.setattr(GradientKernel, "leapfrog", None)
    monkeypatch.setattr("skbayes.inference.kernel.start", None)
    same(clone(model).fit(*curve, checkpoint=str(tmp_path)).posterior_, first.posterior_)
    # what has nothing to do with the draws may change
    other = clone(model).set_params(verbose=1, n_jobs=2, warm_start=True)
    same(other.fit(*curve, checkpoint=tmp_path).posterior_, first.posterior_)
    assert files(tmp_path) == before


def test_an_interrupted_run_goes_on(model, curve, tmp_path, every_iteration, monkeypatch):
    def interrupt(bar, done, total, text):
        if done == 33 and total == 44:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skbayes.progress.ProgressBar.__call__", interrupt)
        with pytest.warns(ConvergenceWarning, match="interrupted: 4 of 10 draws"):
            part = clone(model).fit(*curve, checkpoint=tmp_path)
    assert part.posterior_.n_draws == 4
    same(
        clone(model).fit(*curve, checkpoint=tmp_path).posterior_,
        clone(model).fit(*curve).posterior_,
    )


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text", "missing"])
@pytest.mark.parametrize("which", [0, 20, 35])
def test_damaged_files_are_named_and_done_again(
    model, curve, tmp_path, which, damage, every_iteration
):
    killed_fit(model, curve, tmp_path, 36)
    path = sorted(files(tmp_path))[which]
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    else:
        middle = len(content) // 2
        last = content.index(b"PK\x01\x02") - 1  # of the last array; no padding of the container
        path.write_bytes(
            {
                "cut": content[:middle],
                "flip": content[:last] + bytes([content[last] ^ 255]) + content[last + 1 :],
                "empty": b"",
                "text": b"hello",
            }[damage]
        )
    model_again = clone(model)
    if damage == "missing":
        model_again.fit(*curve, checkpoint=tmp_path)
    else:
        with pytest.warns(RuntimeWarning, match=f"{path.name} is ignored"):
            model_again.fit(*curve, checkpoint=tmp_path)
    same(model_again.posterior_, clone(model).fit(*curve).posterior_)


def test_files_hold_no_pickle(model, curve, tmp_path):
    model.fit(*curve, checkpoint=tmp_path)
    (path,) = files(tmp_path)
    with np.load(path, allow_pickle=False) as file:
        record = json.loads(str(file["json"]))
        np.testing.assert_array_equal(file["draws"], model.posterior_.draws)
        assert all(file[name].dtype != object for name in file.files)
    assert record["state"]["iteration"] == 44
    assert path.parent.parent.name == record["fingerprint"][:32]


def test_a_failure_to_write_leaves_nothing_behind(model, curve, tmp_path, monkeypatch):
    def full(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space left"):
        model.fit(*curve, checkpoint=tmp_path)
    assert not files(tmp_path)


# ------------------------------------------------------------------- fingerprints


def test_another_fit_has_its_own_place(model, curve, tmp_path):
    X, y = curve
    method = HMC(2, n_warmup=2, n_draws=4, max_leapfrog=1, init=MAP(max_epochs=2))
    model.set_params(method=method).fit(X, y, checkpoint=tmp_path)
    before = files(tmp_path)
    weight = np.ones(len(X))
    weight[0] = 2.0
    changed = X.copy()
    changed[0, 0] = np.nextafter(X[0, 0], 9)
    fits = [
        (model, (X, 2 * y), {}),
        (model, (changed, y), {}),
        (model, (X, y), {"sample_weight": weight}),
        (clone(model).set_params(random_state=1), (X, y), {}),
        (clone(model).set_params(prior="laplace"), (X, y), {}),
        (clone(model).set_params(noise=0.1), (X, y), {}),
        (clone(model).set_params(dtype="float64"), (X, y), {}),
        (clone(model).set_params(method__n_draws=5), (X, y), {}),
        (clone(model).set_params(method__init__max_epochs=3), (X, y), {}),
        (
            clone(model).set_params(method=NUTS(2, n_warmup=2, n_draws=4, max_tree_depth=1)),
            (X, y),
            {},
        ),
        (clone(model).set_params(warm_start=True).fit(X, y), (X, y), {}),
    ]
    for number, (other, data, more) in enumerate(fits):
        other.fit(*data, **more, checkpoint=tmp_path)
        assert len(list(tmp_path.iterdir())) == 2 + number
    after = files(tmp_path)
    assert all(after[path] == content for path, content in before.items())


def test_another_version_has_its_own_place(model, curve, tmp_path, monkeypatch):
    model.fit(*curve, checkpoint=tmp_path)
    monkeypatch.setattr("skbayes.__version__", "99")
    model.fit(*curve, checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_fingerprints_tell_values_apart():
    values = [1, 1.0, True, "1", None, (1, 2), (12,), ("1", "2"), ((1,), 2), {1: 2}, {"1": 2}]
    values += [np.arange(4), np.arange(4.0), np.arange(4).reshape(2, 2), MAP(), MAP(n_restarts=2)]
    values += [np.array(["a", "b"], dtype=object), HMC(init=MAP()), HMC(init=MAP(n_restarts=2))]
    assert len({fingerprint(v) for v in values}) == len(values)
    assert fingerprint({"a": 1, "b": 2}) == fingerprint({"b": 2, "a": 1})
    assert fingerprint(np.float64(0.5), [1]) == fingerprint(0.5, (1,))


def test_labels_of_any_kind(binary, tmp_path):
    X, y = binary
    method = NUTS(2, n_warmup=2, n_draws=4, max_tree_depth=2, init=START)
    model = BayesianMLPClassifier((), method=method, random_state=0)
    for number, labels in enumerate((y, np.array(["a", "b"])[y], np.array(["a", "c"], object)[y])):
        model.fit(X, labels, checkpoint=tmp_path)
        assert len(list(tmp_path.iterdir())) == 1 + number


@pytest.mark.parametrize(
    ("params", "folder", "match"),
    [
        ({"random_state": None}, "x", "random_state=None is not allowed with a checkpoint"),
        ({"random_state": np.random.RandomState(0)}, "x", "must be an integer"),  # noqa: NPY002
        ({"method": "anchored"}, "x", "checkpoint='x' is not allowed with Anchored"),
        ({}, 3, "checkpoint=3 is not allowed; it must be the path"),
    ],
)
def test_what_cannot_be_kept(model, curve, params, folder, match):
    with pytest.raises(ValueError, match=match):
        model.set_params(**params).fit(*curve, checkpoint=folder)


def test_a_file_is_no_folder(model, curve, tmp_path):
    place = tmp_path / "kept"
    place.write_text("mine")
    with pytest.raises(ValueError, match="it is a file; pass the path of a folder"):
        model.fit(*curve, checkpoint=place)
    assert place.read_text() == "mine"


@pytest.mark.slow
def test_search(curve, tmp_path, every_iteration):
    """Each candidate and fold has its place, and a search that is repeated only loads them."""
    method = HMC(2, n_warmup=5, n_draws=6, max_leapfrog=2, init=START)
    model = BayesianMLPRegressor((3,), method=method, random_state=0)
    grid = {"method__trajectory_length": [1.0, 2.0]}

    def search(**kwargs):
        return GridSearchCV(model, grid, cv=2, n_jobs=2).fit(*curve, **kwargs)

    first = search(checkpoint=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5  # and the best on all rows
    before = files(tmp_path)
    again, plain = search(checkpoint=tmp_path), search()
    assert files(tmp_path) == before
    same(first.best_estimator_.posterior_, again.best_estimator_.posterior_)
    np.testing.assert_array_equal(
        first.cv_results_["mean_test_score"], plain.cv_results_["mean_test_score"]
    )
