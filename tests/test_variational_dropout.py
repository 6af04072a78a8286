"""Estimators of variational dropout: scikit-learn's checks, pruning, and what they find."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from modules import Branches, Conv, Small
from problems import make_log_posterior, random_theta
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits

from skbayes import VariationalDropoutClassifier, VariationalDropoutRegressor
from skbayes.inference.variational_dropout import KINDS
from skbayes.layers.compact import Select
from skbayes.layers.group_families import GroupDropout, HorseshoeDropout
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.variational import Noise

SHORT = {"max_epochs": 25, "n_draws": 4, "learning_rate": 0.05, "random_state": 0}

ALL_KINDS = [{"kind": kind} for kind in KINDS] + [
    {"kind": "gaussian", "correlated": True},
    {"kind": "variational", "per": "unit"},
    {"kind": "variational", "per": "unit", "correlated": True},
    {"kind": "group", "group_prior": "horseshoe"},
    {"kind": "sparse", "kl": "exact"},
]

WEIGHT_CHECKS = (
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
)


@parametrize_with_checks(
    [
        VariationalDropoutClassifier((5,), **SHORT),
        VariationalDropoutRegressor((5,), **SHORT),
    ],
    expected_failed_checks=lambda estimator: dict.fromkeys(
        WEIGHT_CHECKS,
        "rows have noise of their own: a row of weight 2 gets one draw where two rows get two",
    ),
)
def test_all_checks(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def products():
    """The sign of the product of the first two of ten columns."""
    X = np.random.default_rng(0).normal(size=(300, 10))
    return X, X[:, 0] * X[:, 1] > 0


@pytest.fixture(scope="module")
def sparse_fit(products):
    clf = VariationalDropoutClassifier(
        (10,), max_epochs=800, batch_size=300, learning_rate=0.005, random_state=0
    )
    return clf.fit(*products)


def test_sparse_prunes_irrelevant_inputs(products, sparse_fit):
    assert sparse_fit.score(*products) > 0.9
    np.testing.assert_array_equal(sparse_fit.masks_["0.weight"].any(0), [True] * 2 + [False] * 8)
    assert sparse_fit.sparsity_["all"] > 0.7
    assert sparse_fit.compression_ratio_.pruning > 4
    assert sparse_fit.compression_ratio_.precision > 2 * sparse_fit.compression_ratio_.pruning
    curve = sparse_fit.sparsity_curve_
    assert curve["all"].shape == (800,) and curve["all"][-1] == sparse_fit.sparsity_["all"]
    assert curve["all"][0] == 0.0


def test_thresholds_can_be_tried(products, sparse_fit):
    X = products[0][:20]
    reg = pickle.loads(pickle.dumps(sparse_fit))
    proba = reg.predict_proba(X)
    kept = {}
    for threshold in (-3.0, 3.0, np.inf):
        reg.prune(threshold)
        kept[threshold] = sum(mask.sum() for mask in reg.masks_.values())
    assert kept[-3.0] < kept[3.0] < kept[np.inf] == 110, kept
    assert reg.sparsity_["all"] == 0.0 and reg.compression_ratio_.pruning == 1.0
    np.testing.assert_allclose(reg.prune(3.0).predict_proba(X), proba, rtol=1e-12)
    reg.prune({"0.weight": np.inf, "2.weight": -3.0})
    assert reg.sparsity_["2.weight"] > 0 and reg.threshold_["2.weight"] == -3.0
    for bad in ([3], "3", np.nan, True, {"0.weight": 3.0}):
        with pytest.raises(ValueError, match="threshold"):
            reg.prune(bad)
    assert reg.threshold_["2.weight"] == -3.0


def test_the_small_module_predicts_the_same(products, sparse_fit):
    """The compact module against the whole one with zeros, by hand."""
    X = sparse_fit._scaler.transform(products[0][:50]).astype(np.float32)
    theta = sparse_fit.posterior_.last_state[0]
    masks = sparse_fit.masks_
    h = np.maximum(X @ (theta[:100].reshape(10, 10) * masks["0.weight"].T) + theta[100:110], 0)
    expected = h @ (theta[110:120] * masks["2.weight"][0]) + theta[120]
    small = sparse_fit.to_module()
    with torch.no_grad():
        found = small(torch.as_tensor(X))[:, 0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert isinstance(small[0], Select)
    sparse = sparse_fit.to_sparse_network()
    np.testing.assert_allclose(sparse(X)[:, 0], expected, rtol=1e-4, atol=1e-5)


def test_training_goes_on_with_the_smaller_network(products, sparse_fit):
    small = sparse_fit.to_module(whole_units=True)
    assert small[0].in_features == 10 and small[0].out_features < 10
    clf = VariationalDropoutClassifier(
        module=small, max_epochs=300, batch_size=300, learning_rate=0.003, random_state=0
    ).fit(*products)
    assert clf.loss_curve_[0] < 0.7 * sparse_fit.loss_curve_[0]  # from the weights that it had
    assert clf.score(*products) > 0.9
    widths = [m.out_features for m in clf.to_module(whole_units=True)[::2]]
    assert widths[0] <= small[0].out_features and widths[-1] == 1


@pytest.mark.parametrize("params", ALL_KINDS, ids=str)
def test_every_kind_learns(params):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3))
    y = X[:, 0] - X[:, 1] > 0
    clf = VariationalDropoutClassifier(
        (6,), max_epochs=40, n_draws=10, learning_rate=0.05, random_state=0, **params
    )
    clf.fit(X, y)
    assert clf.score(X, y) > 0.9
    assert set(clf.log_alpha_) == set(clf.masks_) == {"0.weight", "2.weight"}
    assert set(clf.sparsity_) == {"0.weight", "2.weight", "all"}
    again = clone(clf).fit(X, y)
    np.testing.assert_array_equal(clf.posterior_.draws, again.posterior_.draws)
    with pytest.raises(ValueError, match="improper"):
        clf.sample_prior(X)


@pytest.mark.parametrize("family", [GroupDropout, HorseshoeDropout])
def test_log_alpha_of_groups_is_that_of_their_factors(family):
    """By draws; the noise of the weights does not count."""
    target = make_log_posterior("fixed", hidden=(4, 3))
    noise, n = Noise(0, torch.device("cpu")), 40_000
    family = family(target, random_theta(target, 1)[0], VariationalNetwork.of(target, noise))
    with torch.no_grad():
        for leaf in family.leaves[2:]:
            leaf += 0.3 * noise.normal_like(leaf)
        for leaf in family.leaves[3:]:
            leaf[leaf < -5] += 6.0  # variances
        draws = [part.numpy() for part in family._draw_z(n, noise)]
        family.log_var += 5.0
    found = family.log_alpha()
    assert list(found) == ["0.weight", "2.weight", "4.weight"]
    for z, log_alpha in zip(draws, found.values(), strict=True):
        parts = np.split(z, 20)  # the spread over parts tells the error
        each = np.stack([np.log(part.var(0) / part.mean(0) ** 2) for part in parts])
        error = each.std(0, ddof=1) / np.sqrt(len(each))
        assert (np.abs(each.mean(0) - log_alpha) < 5 * error + 0.02).all()


@pytest.mark.parametrize("prior", ["normal_jeffreys", "horseshoe"])
def test_threshold_of_groups(prior):
    """It is where the log likelihood less log G for each group that is kept is largest."""
    X = np.random.default_rng(0).normal(size=(300, 10)).astype(np.float32)
    y = (X[:, 0] - X[:, 1] + 0.5 * np.random.default_rng(1).normal(size=300) > 0).astype(int)
    clf = VariationalDropoutClassifier(
        (5,), kind="group", group_prior=prior, max_epochs=400, batch_size=300,
        standardize=False, random_state=0,
    ).fit(X, y)  # fmt: skip
    default = clf.threshold_
    alphas = np.concatenate([part.ravel() for part in clf.log_alpha_.values()])

    def criterion(threshold):
        with torch.no_grad():
            logit = clf.prune(threshold).to_module()(torch.from_numpy(X)).squeeze(1)
            loss = binary_cross_entropy_with_logits(
                logit, torch.from_numpy(y).float(), reduction="sum"
            )
        return -float(loss) - (alphas < threshold).sum() * np.log(len(alphas))

    tried = {t: criterion(t) for t in np.arange(3.0, alphas.min() - 0.25, -0.25)}
    assert tried[default] > max(tried.values()) - 1e-3
    if prior == "horseshoe":  # with the other, groups that are not needed are above 3 here
        assert max(tried.values()) > tried[3.0] + 1.0
    clf.prune()
    assert clf.threshold_ == default
    kept = clf.masks_["0.weight"].any(0)
    # chance columns are worth more than log G = 2.7 here
    assert kept[:2].all() and kept[2:].sum() <= 3


@pytest.mark.parametrize("params", [{"kind": "sparse"}, {"kind": "group"}], ids=str)
@pytest.mark.parametrize("norm", [None, "batch"])
def test_convolutions(params, norm):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 1, 6, 6)).astype(np.float32)
    y = (X[:, 0, :3].mean((1, 2)) > 0).astype(int) + (X[:, 0, 3:].mean((1, 2)) > 0)
    clf = VariationalDropoutClassifier(
        module=Conv, module__norm=norm, standardize=False, **SHORT, **params
    )
    clf.fit(X, y)
    shapes = {name: mask.shape for name, mask in clf.masks_.items()}
    assert shapes == {
        "first.weight": (2, 1, 3, 3),
        "second.weight": (2, 1, 3, 3),
        "out.weight": (3, 8),
    }
    rates = {name: values.shape for name, values in clf.log_alpha_.items()}
    if params["kind"] == "group":
        assert rates == {"first.weight": (2,), "second.weight": (2,), "out.weight": (8,)}
    else:
        assert rates == shapes
    np.testing.assert_allclose(clf.predict_proba(X).sum(1), 1.0)
    clf.prune(-1.0).to_module()


def test_a_module_that_looks_at_its_memory():
    """Its convolutions keep the order of axes, or `view` would fail."""

    class Viewing(Conv):
        def forward(self, x):
            z = torch.tanh(self.second(torch.tanh(self.first(x))))
            return self.out(z.view(len(x), -1))

    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 1, 6, 6)).astype(np.float32)
    y = np.arange(60) % 3
    clf = VariationalDropoutClassifier(module=Viewing, standardize=False, **SHORT).fit(X, y)
    np.testing.assert_allclose(clf.predict_proba(X).sum(1), 1.0)


def test_a_pruned_channel_is_silent():
    """A group goes with its bias, and what it led to goes in the next layer."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 1, 5, 5)).astype(np.float32)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Conv2d(3, 2, 2), nn.Flatten(), nn.Linear(8, 2)
    )
    clf = VariationalDropoutClassifier(module=net, kind="group", standardize=False, **SHORT)
    clf.fit(X, X.mean((1, 2, 3)) > 0)
    clf.log_alpha_["0.weight"] = np.array([-5.0, 4.0, -5.0])
    clf.log_alpha_["4.weight"] = np.array([-5.0] * 4 + [4.0] * 4)
    clf.log_alpha_["2.weight"] = np.array([-5.0, -5.0])
    clf.prune(3.0)
    assert not clf.masks_["0.weight"][1].any() and clf.masks_["0.weight"][[0, 2]].all()
    assert not clf.masks_["2.weight"][:, 1].any() and not clf.masks_["2.weight"][1].any()
    assert not clf.masks_["4.weight"][:, 4:].any() and clf.masks_["4.weight"][:, :4].all()
    weights = clf.posterior_.unflatten()
    assert np.all(weights["0.bias"][..., 1] == 0) and np.all(weights["0.bias"][..., 0] != 0)
    small = clf.to_module()
    assert small[0].out_channels == 2 and small[2].out_channels == 1


@pytest.mark.parametrize(
    "params",
    [{"kind": "group"}, {"kind": "group", "group_prior": "horseshoe"}, *ALL_KINDS[4:7]],
    ids=str,
)
def test_draws_have_the_moments_that_pruning_goes_by(params):
    """Means and variances of the weights, and the noise that weights of a group share."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 1, 6, 6)).astype(np.float32)
    y = X.mean((1, 2, 3)) > 0
    settings = {**SHORT, "max_epochs": 5, "n_draws": 6000, "dtype": "float64"}
    if "group" in params.values():
        settings["init_log_var"] = -3.0
    clf = VariationalDropoutClassifier(
        module=Conv, module__n_outputs=2, standardize=False, **settings, **params
    )
    clf.fit(X, y).prune(np.inf)
    adapted, draws = clf.posterior_.adapted, clf.posterior_.unflatten()
    for name, mean in adapted["weight_mean"].items():
        var = adapted["weight_var"][name]
        values = draws[name][0]
        values = values.swapaxes(1, 2) if name == "out.weight" else values
        assert np.all(np.abs(values.mean(0) - mean) < 5 * np.sqrt(var / 6000))
        fourth = ((values - mean) ** 4).mean(0) - var**2
        assert np.all(np.abs(values.var(0) - var) < 5 * np.sqrt(fourth / 6000) + 1e-12)
    # weights of the last layer that belong to one input, for the classes' two columns
    last = draws["out.weight"][0]
    correlation = np.corrcoef(last[:, 0].T)[0, 1]
    shared = params.get("correlated", False)
    assert abs(abs(correlation) - 1) < 1e-6 if shared else abs(correlation) < 1


def test_modules_that_are_no_chain():
    X = np.random.default_rng(0).normal(size=(40, 3))
    reg = VariationalDropoutRegressor(module=Branches, kind="group", **SHORT)
    reg.fit(X, X[:, 0])
    assert not reg.posterior_.adapted["pruner"].chain
    assert set(reg.masks_) <= {"a.weight", "b.weight"}


@pytest.mark.parametrize(
    "params, match",
    [
        ({"kind": "other"}, "kind='other'"),
        ({"rate": 0.7}, "rate=0.7"),
        ({"per": "weight"}, "per='weight'"),
        ({"group_prior": "normal"}, "group_prior='normal'"),
        ({"kl": "kingma"}, "kl='kingma'"),
        ({"max_epochs": 0}, "max_epochs=0"),
        ({"kl_warmup": 1.5}, "kl_warmup=1.5"),
        ({"init_log_var": 3.0}, "init_log_var=3.0"),
        ({"threshold": "high"}, "threshold='high'"),
        ({"n_draws": 0}, "n_draws=0"),
        ({"module__width": 3}, "module__width is not allowed"),
        ({"callbacks": 3}, "callbacks=3"),
    ],
)
def test_parameters_are_checked(params, match):
    X = np.zeros((6, 2))
    with pytest.raises(ValueError, match=match):
        VariationalDropoutClassifier(**params).fit(X, [0, 1] * 3)


def test_no_layer_to_drop():
    class Scale(nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = nn.Parameter(torch.ones(1))

        def forward(self, x):
            return x[:, :1] * self.factor

    with pytest.raises(ValueError, match="no linear or convolution layer"):
        VariationalDropoutRegressor(module=Scale).fit(np.ones((4, 2)), np.arange(4.0))


def test_weights_sparse_rows_outputs_and_searches(products):
    X = products[0]
    X, y = X[:60], np.column_stack([X[:60, 0], X[:60, 1]])
    weight = np.ones(60)
    weight[30:] = 0.0
    y[30:] += 100.0  # of no weight
    reg = VariationalDropoutRegressor((4,), noise="heteroscedastic", **SHORT)
    reg.fit(sp.csr_matrix(X), y, sample_weight=weight)
    assert reg.predict_interval(sp.csr_matrix(X)).shape == (60, 2, 2)
    assert np.abs(reg.predict(sp.csr_matrix(X))).max() < 20
    search = GridSearchCV(
        VariationalDropoutClassifier(module=Small, **SHORT), {"module__width": [2, 3]}, cv=2
    )
    search.fit(X, X[:, 0] > 0)
    labels = VariationalDropoutClassifier((4,), **SHORT).fit(X, X[:, :2] > 0)
    assert labels.predict_proba(X).shape == (60, 2)


def test_callbacks_and_interruption(products):
    skorch = pytest.importorskip("skorch")

    class Stop(skorch.callbacks.Callback):
        def on_epoch_end(self, net, **kwargs):
            if len(net.history) == 5:
                raise KeyboardInterrupt

    X = products[0]
    y = X[:, 0]
    reg = VariationalDropoutRegressor((4,), callbacks=[Stop()], **SHORT)
    with pytest.warns(UserWarning, match="interrupted after 5 epochs"):
        reg.fit(X, y)
    assert reg.n_iter_ == len(reg.history_) == 5 and "train_loss" in reg.history_[0]
    assert np.isfinite(reg.predict(X)).all()


class Backwards(nn.Module):
    """Square layers, in another order than that of their calls."""

    def __init__(self):
        super().__init__()
        self.second, self.first = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("kind", ["sparse", "group"])
def test_pruning_follows_the_calls_of_layers(kind):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4)).astype(np.float32)
    y = np.arange(60) % 4
    clf = VariationalDropoutClassifier(module=Backwards, kind=kind, **SHORT).fit(X, y)
    assert list(clf.masks_) == ["first.weight", "second.weight"]
    kept = np.array([True, True, False, True])
    if kind == "sparse":  # unit 2 leads nowhere
        clf.log_alpha_ = {n: np.zeros((4, 4)) for n in clf.log_alpha_}
        clf.log_alpha_["second.weight"][:, 2] = 9.0
    else:
        clf.log_alpha_ = {n: np.zeros(4) for n in clf.log_alpha_}
        clf.log_alpha_["second.weight"][2] = 9.0
    clf.prune(3.0)
    np.testing.assert_array_equal(clf.masks_["first.weight"], np.repeat(kept[:, None], 4, 1))
    np.testing.assert_array_equal(clf.masks_["second.weight"], np.repeat(kept[None], 4, 0))
    assert clf.to_module()[0].out_features == 3


def test_smaller_network_leaves_torchs_random_state_alone():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 1, 6, 6)).astype(np.float32)
    clf = VariationalDropoutClassifier(module=Conv(norm="batch"), **SHORT).fit(X, np.arange(30) % 3)
    before = torch.get_rng_state()
    clf.prune(-1.0).to_module()
    assert torch.equal(before, torch.get_rng_state())


def test_message_of_a_rate_of_zero():
    with pytest.raises(ValueError, match="rate=0 is not allowed; .* over 0, at most 0.5"):
        VariationalDropoutClassifier(rate=0).fit(np.eye(4), [0, 1, 0, 1])
