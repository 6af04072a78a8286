import subprocess
import sys
import warnings

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import make_classification
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor, VariationalDropoutClassifier
from skbayes.inference import HMC, Anchored, Ensemble
from skbayes.metrics import cumulative_log_predictive_density
from skbayes.plotting import (
    CumulativeDensityDisplay,
    DecisionBoundaryUncertaintyDisplay,
    LayerWeightsDisplay,
    OrbitDisplay,
    PredictiveBandDisplay,
    PriorPosteriorDisplay,
    RankDisplay,
    ReliabilityDisplay,
    SparsityCurveDisplay,
    TraceDisplay,
)

matplotlib.use("Agg")

rng = np.random.default_rng(0)
X_REG = rng.standard_normal((50, 2))
Y_REG = 2.0 * X_REG[:, 0] + 0.3 * rng.standard_normal(50) + 5.0
X_CLF, CODES = make_classification(
    60, 2, n_informative=2, n_redundant=0, flip_y=0.1, random_state=0
)
Y_CLF = np.array(["no", "yes"])[CODES]
QUICK = Ensemble(n_members=5, max_epochs=30, validation_fraction=0)
CHAINS = HMC(n_chains=3, n_warmup=60, n_draws=40, init="prior", max_leapfrog=20)


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def reg():
    return BayesianMLPRegressor((4,), method=QUICK, noise=0.3, random_state=0).fit(X_REG, Y_REG)


@pytest.fixture(scope="module")
def clf():
    return BayesianMLPClassifier((4,), method=QUICK, random_state=0).fit(X_CLF, Y_CLF)


@pytest.fixture(scope="module")
def chains():
    model = BayesianMLPRegressor((), method=CHAINS, noise=0.3, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # forty draws are few
        return model.fit(X_REG, Y_REG)


# ------------------------------------------------------------------------------ bands


def test_band_of_a_regressor_is_what_the_estimator_says(reg):
    display = PredictiveBandDisplay.from_estimator(
        reg, X_REG, feature=1, y=Y_REG, coverage=0.8, grid_resolution=30
    )
    rows = np.column_stack([np.full(30, np.median(X_REG[:, 0])), display.grid])
    assert display.grid[[0, -1]].tolist() == [X_REG[:, 1].min(), X_REG[:, 1].max()]
    np.testing.assert_allclose(display.mean, reg.predict(rows))
    np.testing.assert_allclose(display.total, reg.predict_interval(rows, 0.8))
    means = reg.predict_draws(rows)[0]
    np.testing.assert_allclose(display.epistemic, np.quantile(means, [0.1, 0.9], axis=0).T)
    low, high = display.total.T
    assert (low < display.mean).all() and (display.mean < high).all()
    assert (low < display.epistemic[:, 0]).all() and (display.epistemic[:, 1] < high).all()
    np.testing.assert_array_equal(display.y, Y_REG)
    np.testing.assert_array_equal(display.x, X_REG[:, 1])
    assert display.ax_.get_figure() is display.figure_


def test_band_of_a_classifier_is_the_probability_of_a_class(clf):
    display = PredictiveBandDisplay.from_estimator(
        clf, X_CLF, y=Y_CLF, target="no", grid_resolution=20, grid_range=(-3, 3)
    )
    rows = np.column_stack([display.grid, np.full(20, np.median(X_CLF[:, 1]))])
    np.testing.assert_allclose(display.mean, clf.predict_proba(rows)[:, 0])
    assert display.total is None
    np.testing.assert_array_equal(display.y, Y_CLF == "no")
    assert "no" in display.ax_.get_ylabel()
    default = PredictiveBandDisplay.from_estimator(clf, X_CLF, grid_resolution=20)
    assert "yes" in default.target_name


def test_band_of_several_outputs():
    Y = np.column_stack([Y_REG, -Y_REG])
    model = BayesianMLPRegressor((), method=QUICK, noise=0.3, random_state=0).fit(X_REG, Y)
    display = PredictiveBandDisplay.from_estimator(model, X_REG, y=Y, target=1, grid_resolution=9)
    rows = np.column_stack([display.grid, np.full(9, np.median(X_REG[:, 1]))])
    np.testing.assert_allclose(display.mean, model.predict(rows)[:, 1])
    np.testing.assert_allclose(display.total, model.predict_interval(rows)[:, 1])
    np.testing.assert_array_equal(display.y, -Y_REG)


def test_band_with_a_data_frame():
    frame = pd.DataFrame(X_REG, columns=["a", "b"])
    model = BayesianMLPRegressor((), method=QUICK, random_state=0).fit(frame, Y_REG)
    display = PredictiveBandDisplay.from_estimator(model, frame, feature="b", grid_resolution=9)
    assert display.feature_name == display.ax_.get_xlabel() == "b"
    np.testing.assert_array_equal(display.grid[[0, -1]], [frame["b"].min(), frame["b"].max()])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"feature": 2}, "feature=2"),
        ({"feature": "a"}, "feature='a'"),
        ({"target": 1}, "target=1"),
    ],
)
def test_band_names_what_is_wrong(reg, kwargs, message):
    with pytest.raises(ValueError, match=message):
        PredictiveBandDisplay.from_estimator(reg, X_REG, **kwargs)


def test_unknown_class_and_foreign_estimator_are_refused(clf):
    with pytest.raises(ValueError, match="target='maybe'"):
        PredictiveBandDisplay.from_estimator(clf, X_CLF, target="maybe")
    with pytest.raises(ValueError, match="LogisticRegression has no predict_draws"):
        PredictiveBandDisplay.from_estimator(LogisticRegression().fit(X_CLF, Y_CLF), X_CLF)


@pytest.mark.parametrize("kind", ["pipeline", "search"])
def test_displays_see_through_pipelines_and_searches(kind):
    model = BayesianMLPRegressor((), method=Anchored(n_members=3), noise=0.3, random_state=0)
    model = make_pipeline(StandardScaler(), model)
    if kind == "search":
        grid = {"bayesianmlpregressor__noise": [0.3, 0.5]}
        model = GridSearchCV(model, grid, cv=2)
    model.fit(10 * X_REG, Y_REG)
    display = PredictiveBandDisplay.from_estimator(model, 10 * X_REG, grid_resolution=9)
    rows = np.column_stack([display.grid, np.full(9, np.median(10 * X_REG[:, 1]))])
    np.testing.assert_allclose(display.mean, model.predict(rows))
    PriorPosteriorDisplay.from_estimator(model, 10 * X_REG, random_state=0)
    coverage = ReliabilityDisplay.from_estimator(model, 10 * X_REG, Y_REG)
    assert coverage.name == "BayesianMLPRegressor"


# --------------------------------------------------------------------------- boundary


@pytest.mark.parametrize("response", ["epistemic", "total", "proba"])
def test_boundary_holds_the_predictions_on_the_grid(clf, response):
    display = DecisionBoundaryUncertaintyDisplay.from_estimator(
        clf, X_CLF, Y_CLF, response=response, grid_resolution=12, eps=0.5
    )
    rows = np.column_stack([display.xx0.ravel(), display.xx1.ravel()])
    np.testing.assert_allclose(rows.min(0), X_CLF.min(0) - 0.5)
    np.testing.assert_allclose(display.proba.reshape(-1, 2), clf.predict_proba(rows))
    if response == "proba":
        assert display.uncertainty is None
    else:
        expected = getattr(clf.predict_uncertainty(rows), response)
        np.testing.assert_allclose(display.uncertainty.ravel(), expected)
    assert display.ax_.get_xlabel() == "feature 0"  # one panel, one Axes
    np.testing.assert_array_equal(display.y, CODES)


def test_boundary_beside_a_point_estimate(clf):
    point = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_CLF, Y_CLF)
    kwargs = {"point_estimator": point, "grid_resolution": 12}
    two = DecisionBoundaryUncertaintyDisplay.from_estimator(clf, X_CLF, response="proba", **kwargs)
    three = DecisionBoundaryUncertaintyDisplay.from_estimator(clf, X_CLF, Y_CLF, **kwargs)
    assert len(two.ax_) == 2 and len(three.ax_) == 3
    rows = np.column_stack([two.xx0.ravel(), two.xx1.ravel()])
    np.testing.assert_allclose(two.point_proba.reshape(-1, 2), point.predict_proba(rows))
    with pytest.raises(ValueError, match="3 panels"):
        three.plot(ax=plt.figure().add_subplot())


def test_boundary_of_three_classes():
    y = np.arange(60) % 3
    X = X_CLF + 3 * np.eye(3)[y][:, :2]
    model = BayesianMLPClassifier((4,), method=QUICK, random_state=0).fit(X, y)
    for response in ("proba", "epistemic"):
        DecisionBoundaryUncertaintyDisplay.from_estimator(
            model, X, y, response=response, grid_resolution=12
        )


def test_boundary_names_what_is_wrong(clf):
    make = DecisionBoundaryUncertaintyDisplay.from_estimator
    with pytest.raises(ValueError, match="response='std'"):
        make(clf, X_CLF, response="std")
    with pytest.raises(ValueError, match="two columns"):
        make(clf, np.ones((5, 3)))
    with pytest.raises(ValueError, match="other classes"):
        make(clf, X_CLF, point_estimator=LogisticRegression().fit(X_CLF, CODES))


# ------------------------------------------------------------------------- reliability


class Fixed(LogisticRegression):
    """Predicts what it is given as X."""

    def predict_proba(self, X):
        return X


def test_reliability_of_a_classifier_by_hand():
    proba = np.array([[0.9, 0.1], [0.85, 0.15], [0.35, 0.65], [0.45, 0.55], [0.0, 1.0]])
    y = np.array([0, 1, 1, 0, 1])
    model = Fixed()
    model.classes_ = np.array([0, 1])
    display = ReliabilityDisplay.from_estimator(model, proba, y, n_bins=5)
    # confidences .9 .85 .65 .55 1 in bins (.4, .6], (.6, .8], (.8, 1]
    assert display.counts.tolist() == [0, 0, 1, 1, 3]
    np.testing.assert_allclose(display.expected, [0.55, 0.65, 2.75 / 3])
    np.testing.assert_allclose(display.observed, [0.0, 1.0, 2 / 3])
    assert display.error == pytest.approx((0.55 + 0.35 + 0.75) / 5)
    assert len(display.ax_) == 2


def test_reliability_of_labels_that_are_strings(clf):
    display = ReliabilityDisplay.from_estimator(clf, X_CLF, Y_CLF)
    assert display.counts.sum() == len(Y_CLF)
    share = (display.counts[display.counts > 0] * display.observed).sum() / len(Y_CLF)
    assert share == pytest.approx(clf.score(X_CLF, Y_CLF))
    other = ReliabilityDisplay.from_estimator(clf, X_CLF, Y_CLF, name="again", ax=display.ax_)
    assert other.figure_ is display.figure_
    labels = [text.get_text() for text in display.ax_[0].get_legend().get_texts()]
    assert len(labels) == 2 and labels[1].startswith("again")


def test_reliability_of_a_regressor_is_the_coverage_of_its_intervals(reg):
    display = ReliabilityDisplay.from_estimator(reg, X_REG, Y_REG, n_bins=5)
    np.testing.assert_allclose(display.expected, [0.2, 0.4, 0.6, 0.8])
    for nominal, observed in zip(display.expected, display.observed, strict=True):
        lower, upper = reg.predict_interval(X_REG, float(nominal)).T
        assert observed == pytest.approx(((lower <= Y_REG) & (Y_REG <= upper)).mean())
    assert display.counts is None and display.error is None


# ------------------------------------------------------------------------------ chains


def test_trace_holds_each_chains_predictions(chains):
    display = TraceDisplay.from_estimator(chains, X_REG, n_points=3)
    assert display.rows.tolist() == [0, 24, 49]
    assert display.values.shape == (3, 40, 3)
    theta = chains.posterior_.draws[1, 7]
    outputs = chains._forward(theta[None], chains._scaler.transform(X_REG[[24]]))
    mean = chains._moments(outputs, theta[None])[0]
    assert display.values[1, 7, 1] == pytest.approx(mean.item())
    assert display.r_hat.shape == (3,) and len(display.ax_) == 3


def test_ranks_of_each_chain_add_up(chains):
    display = RankDisplay.from_estimator(chains, X_REG, n_points=3, n_bins=8)
    assert display.counts.shape == (3, 3, 8)
    assert (display.counts.sum(2) == 40).all()  # each draw is somewhere
    assert (display.counts.sum(1) == 15).all()  # ranks are 1 to 120, each once
    assert len(display.ax_) == 3
    assert len(display.figure_.axes) == 3  # the fourth place is empty


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_chains_of_a_classifier(n_classes):
    y = np.arange(60) % n_classes
    model = make_pipeline(
        StandardScaler(), BayesianMLPClassifier((), method=CHAINS, random_state=0)
    ).fit(pd.DataFrame(X_CLF, columns=["a", "b"]), y)
    display = TraceDisplay.from_estimator(model, pd.DataFrame(X_CLF, columns=["a", "b"]))
    assert ((display.values >= 0) & (display.values <= 1)).all()
    proba = model.predict_proba(pd.DataFrame(X_CLF, columns=["a", "b"]))[display.rows]
    expected = proba[:, 1] if n_classes == 2 else proba.max(1)
    np.testing.assert_allclose(display.values.mean((0, 1)), expected)


@pytest.mark.parametrize("display", [TraceDisplay, RankDisplay])
def test_members_have_no_traces(reg, display):
    with pytest.raises(ValueError, match="needs chains"):
        display.from_estimator(reg, X_REG)


def test_cumulative_density_has_a_line_for_each_chain(chains):
    display = CumulativeDensityDisplay.from_estimator(chains, X_REG, Y_REG, color="red")
    expected = cumulative_log_predictive_density(chains, X_REG, Y_REG)
    lines = display.ax_.get_lines()
    assert len(lines) == 4 and lines[-1].get_color() == "red"
    for line, values in zip(lines, [*expected.chains, expected.pooled], strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(1, 41))
        np.testing.assert_array_equal(line.get_ydata(), values)
    assert display.ax_.get_xlabel() == "draws per chain"


def test_cumulative_density_of_members_is_one_line(clf):
    display = CumulativeDensityDisplay.from_estimator(clf, X_CLF, Y_CLF)
    assert len(display.ax_.get_lines()) == 1 and display.pooled.shape == (5,)
    assert display.ax_.get_xlabel() == "draws"


# --------------------------------------------------------------------------- functions


def test_functions_of_prior_and_posterior(reg):
    display = PriorPosteriorDisplay.from_estimator(
        reg, X_REG, 1, Y_REG, n_functions=7, grid_resolution=15, random_state=3
    )
    rows = np.column_stack([np.full(15, np.median(X_REG[:, 0])), display.grid])
    np.testing.assert_allclose(display.prior, reg.sample_prior(rows, 7, random_state=3))
    np.testing.assert_allclose(display.posterior, reg.predict_draws(rows)[0])  # has five
    assert len(display.ax_) == 2


def test_functions_of_a_classifier_are_probabilities(clf):
    display = PriorPosteriorDisplay.from_estimator(clf, X_CLF, n_functions=4, random_state=0)
    for functions in (display.prior, display.posterior):
        assert functions.shape == (4, 200)
        assert ((functions >= 0) & (functions <= 1)).all()


# ------------------------------------------------------------------------------- orbit


def test_orbits_keep_what_theory_says():
    display = OrbitDisplay.from_orbit(step_size=0.3, n_steps=40)
    energies = display.energies
    np.testing.assert_allclose(energies["Euler"], 0.5 * 1.09 ** np.arange(41))
    # leapfrog keeps q^2 (1 - eps^2 / 4) + p^2 exactly, modified Euler q^2 + p^2 - eps q p
    q, p = display.paths["leapfrog"].T
    np.testing.assert_allclose(q**2 * (1 - 0.09 / 4) + p**2, 1.0)
    q, p = display.paths["modified Euler"].T
    np.testing.assert_allclose(q**2 + p**2 - 0.3 * q * p, 1.0)


# ------------------------------------------------------------------------------ import


def test_import_leaves_matplotlib_alone_and_the_error_says_what_to_install():
    code = """
import sys
import skbayes.plotting
assert not any(name.split(".")[0] == "matplotlib" for name in sys.modules)
sys.modules["matplotlib"] = None
try:
    skbayes.plotting.OrbitDisplay.from_orbit()
except ImportError as error:
    assert 'pip install "skbayes[plot]"' in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("kind", ["sparse", "group"])
def test_weights_and_sparsity_of_layers(kind):
    clf = VariationalDropoutClassifier((6,), kind=kind, max_epochs=30, random_state=0)
    model = make_pipeline(StandardScaler(), clf).fit(X_CLF, Y_CLF)
    display = LayerWeightsDisplay.from_estimator(model)
    assert display.ax_.shape == (2, 2)
    above, below = (ax.images[0].get_array() for ax in display.ax_[:, 0])
    np.testing.assert_array_equal(np.ma.getmaskarray(above), ~clf.masks_["0.weight"])
    assert below.shape == (6, 2)
    if kind == "sparse":
        np.testing.assert_allclose(
            np.clip(below, -8, 8), np.clip(clf.log_alpha_["0.weight"], -8, 8), atol=1e-3
        )
    one = LayerWeightsDisplay.from_estimator(model, layers=["2.weight"])
    assert one.ax_.shape == (2, 1)
    with pytest.raises(ValueError, match="'3.weight' is not a layer"):
        LayerWeightsDisplay.from_estimator(model, layers=["3.weight"])
    curve = SparsityCurveDisplay.from_estimator(model)
    assert {line.get_label() for line in curve.ax_.lines} == {"0.weight", "2.weight", "all"}
    clf.prune({"0.weight": 1.0, "2.weight": -1.0})
    lines = [
        image.colorbar.ax.lines[0]
        for image in (ax.images[0] for ax in LayerWeightsDisplay.from_estimator(model).ax_[1])
    ]
    assert [line.get_ydata()[0] for line in lines] == [1.0, -1.0]
    clf.prune(3.0)  # at which the curve is, where fit looks for the threshold of groups
    assert curve.ax_.lines[-1].get_ydata()[-1] == pytest.approx(100 * clf.sparsity_["all"])
    with pytest.raises(ValueError, match="has no prune"):
        LayerWeightsDisplay.from_estimator(LogisticRegression().fit(X_CLF, Y_CLF))
