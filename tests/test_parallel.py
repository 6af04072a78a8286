"""Groups of chains: the same draws wherever they run."""

import numpy as np
import pytest
import torch
from chain_runs import same
from gaussian_target import correlated
from joblib import parallel_config
from settings import METHOD_SETTINGS
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC, MAP, NUTS, Ensemble, Streams, checkpoint
from skbayes.inference.groups import merge, run_method
from skbayes.inference.kernel import ChainMethod

pytestmark = pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")

METHOD = NUTS(n_chains=6, n_warmup=24, n_draws=8, max_tree_depth=3, init=Ensemble(6, max_epochs=5))


@pytest.fixture
def model():
    return BayesianMLPRegressor((3,), method=METHOD, random_state=0)


@pytest.fixture
def one_process(model, curve):
    return clone(model).fit(*curve).posterior_


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_draws_do_not_depend_on_n_jobs(model, curve, dtype):
    model.set_params(dtype=dtype)
    one = clone(model).fit(*curve)
    two = clone(model).set_params(n_jobs=2).fit(*curve)
    same(one.posterior_, two.posterior_)
    assert one.posterior_.draws.shape[:2] == (6, 8)
    assert one.diagnostics_ == two.diagnostics_


@pytest.mark.parametrize("backend", ["threading", "loky"])
def test_backends(model, curve, one_process, backend):
    with parallel_config(backend=backend, n_jobs=2):
        same(clone(model).fit(*curve).posterior_, one_process)


@pytest.mark.slow
def test_a_dask_cluster(model, curve, one_process, tmp_path):
    distributed = pytest.importorskip("distributed")
    with (
        distributed.LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            local_directory=tmp_path,
        ) as cluster,
        distributed.Client(cluster),
        parallel_config(backend="dask"),
    ):
        same(clone(model).fit(*curve).posterior_, one_process)


def test_groups_are_runs_of_their_own():
    target = correlated(4)
    method = HMC(n_chains=6, n_warmup=24, n_draws=8, init="prior")
    with torch.no_grad():
        whole = run_method(method, target, None, 3)
        for first, size in ((0, 4), (4, 2)):
            group = method.run(target, None, Streams(3, size, first=first))
            np.testing.assert_array_equal(whole.draws[first : first + size], group.draws)
            np.testing.assert_array_equal(
                whole.adapted["inverse_mass"][first // 4], group.adapted["inverse_mass"]
            )
    assert whole.adapted["step_size"].shape == (6,)
    assert whole.last_state.shape == (6, 4)
    assert not np.array_equal(whole.adapted["inverse_mass"][0], whole.adapted["inverse_mass"][1])


def test_more_chains_leave_the_first_groups_as_they_are(model, curve, one_process):
    more = clone(model).set_params(method__n_chains=9).fit(*curve).posterior_
    np.testing.assert_array_equal(more.draws[:4], one_process.draws[:4])


def test_another_group_size(curve):
    class Wide(HMC):
        group_size = 16

    method = Wide(n_chains=6, n_warmup=5, n_draws=5, max_leapfrog=2, init=MAP(max_epochs=5))
    posterior = BayesianMLPRegressor((3,), method=method, random_state=0).fit(*curve).posterior_
    assert len(posterior.state["groups"]) == 1 and posterior.n_chains == 6


def test_starts_are_not_fitted_in_vain(model, curve, monkeypatch):
    sizes = []
    run = Ensemble.run

    def spy(self, log_posterior, theta0, streams, on_step=None):
        sizes.append(self.n_members)
        return run(self, log_posterior, theta0, streams, on_step)

    monkeypatch.setattr(Ensemble, "run", spy)
    model.fit(*curve)
    assert sizes == [4, 2]


def test_checkpoints_of_groups(model, curve, one_process, tmp_path, monkeypatch):
    """A run that was stopped in its second group goes on with other processes."""
    monkeypatch.setattr(checkpoint, "SAVE_EVERY", 0.0)
    save = checkpoint.GroupStore.save

    def dying(self, past):
        if self.folder.name == "group-001" and self._saved == 28:
            raise RuntimeError("killed")
        save(self, past)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(checkpoint.GroupStore, "save", dying)
        clone(model).fit(*curve, checkpoint=tmp_path)
    (path,) = tmp_path.glob("*/group-001/000000027-*")
    path.write_bytes(b"")
    with pytest.warns(RuntimeWarning, match=f"{path.name} is ignored"):  # from another process
        again = clone(model).set_params(n_jobs=2).fit(*curve, checkpoint=tmp_path)
    same(again.posterior_, one_process)


def test_warm_start_of_groups(model, curve):
    longer = clone(model).set_params(method__n_draws=16).fit(*curve).posterior_
    model.set_params(warm_start=True, n_jobs=2)
    first, second = model.fit(*curve).posterior_, model.fit(*curve).posterior_
    np.testing.assert_array_equal(np.concatenate([first.draws, second.draws], 1), longer.draws)


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_threads_are_shared_out_and_given_back(model, curve, monkeypatch, n_jobs):
    seen = []
    run = ChainMethod.run

    def spy(self, *args, **kwargs):
        seen.append(torch.get_num_threads())
        return run(self, *args, **kwargs)

    monkeypatch.setattr(ChainMethod, "run", spy)
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        with parallel_config(backend="threading"):
            model.set_params(n_jobs=n_jobs).fit(*curve)
        assert seen == [2, 2] and torch.get_num_threads() == 5
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("group", "chains", "draws"), [(0, 4, 3), (1, 4, 8)])
def test_interruption_keeps_the_groups_that_are_finished(
    model, curve, one_process, monkeypatch, group, chains, draws
):
    def interrupt(bar, done, total, text):
        if done == group * 32 + 24 + 3 and total == 64:
            raise KeyboardInterrupt

    monkeypatch.setattr("skbayes.progress.ProgressBar.__call__", interrupt)
    with pytest.warns(ConvergenceWarning, match="4 of 6 chains are kept"):
        model.fit(*curve)
    assert model.posterior_.interrupted
    np.testing.assert_array_equal(model.posterior_.draws, one_process.draws[:chains, :draws])
    assert np.isfinite(model.predict(curve[0])).all()


@pytest.mark.parametrize("n_jobs", [None, 2])
def test_progress(model, curve, capsys, n_jobs):
    model.set_params(verbose=1, n_jobs=n_jobs).fit(*curve)
    err = capsys.readouterr().err
    assert ("2/2" if n_jobs else "64/64") in err


def test_other_methods_take_no_notice(curve):
    model = BayesianMLPRegressor((3,), method=METHOD_SETTINGS["anchored"], random_state=0)
    one = model.fit(*curve).posterior_.draws
    np.testing.assert_array_equal(model.set_params(n_jobs=2).fit(*curve).posterior_.draws, one)


@pytest.mark.parametrize("n_jobs", [0, 1.5, True, "all"])
def test_n_jobs_is_checked(model, curve, n_jobs):
    with pytest.raises(ValueError, match=f"n_jobs={n_jobs!r} is not allowed"):
        model.set_params(n_jobs=n_jobs).fit(*curve)


def test_merging_one_part_changes_nothing(one_process):
    assert merge([one_process], 6) is one_process and not one_process.messages
