"""Bayesian networks beside single networks: a classification and a regression.

Run it with ``make demo``, or ``python examples/quickstart.py``. It takes about a minute, prints two
tables, and writes two pictures into ./quickstart_output/.
"""

import time
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.metrics import log_loss, root_mean_squared_error
from sklearn.model_selection import train_test_split

from skbayes import BayesianMLPClassifier, BayesianMLPRegressor
from skbayes.inference import HMC
from skbayes.metrics import expected_calibration_error
from skbayes.plotting import (
    DecisionBoundaryUncertaintyDisplay,
    PredictiveBandDisplay,
    ReliabilityDisplay,
)

OUTPUT = Path("quickstart_output")
METHODS = {"map": "map", "hmc": HMC(n_chains=4, n_warmup=200, n_draws=200)}


def main() -> None:
    start = time.monotonic()
    OUTPUT.mkdir(exist_ok=True)
    classification()
    regression()
    print(f"\nTwo pictures are in {OUTPUT}/. All took {time.monotonic() - start:.0f} s.")


def classification() -> None:
    data = load_breast_cancer()
    X_train, X_test, y_train, y_test = train_test_split(
        data.data, data.target, test_size=0.5, stratify=data.target, random_state=0
    )
    print(f"Breast cancer: {len(X_train)} rows to fit, {len(X_test)} to test")
    print("  map is a single network, hmc the average over the posterior; high or low is better")
    fitted = fit_all(BayesianMLPClassifier((10,), random_state=0), X_train, y_train)
    rows = {
        "accuracy (high)": lambda model: model.score(X_test, y_test),
        "log loss (low)": lambda model: log_loss(y_test, model.predict_proba(X_test)),
        "calibration error (low)": lambda model: expected_calibration_error(
            y_test, model.predict_proba(X_test)
        ),
    }
    print_table(rows, fitted)

    bayesian = fitted["hmc"]
    epistemic = bayesian.predict_uncertainty(X_test).epistemic
    right = bayesian.predict(X_test) == y_test
    proba = bayesian.predict_proba(X_test)[:, 1]
    print("  The test rows whose class depends most on the weights (epistemic uncertainty):")
    print("    row   probability of benign   epistemic (nats)   truth       prediction")
    order = np.argsort(-epistemic)
    for row in order[:8]:
        truth = data.target_names[y_test[row]]
        verdict = "right" if right[row] else "WRONG"
        print(
            f"    {row:3d}   {proba[row]:21.2f}   {epistemic[row]:16.3f}   {truth:9s}   {verdict}"
        )
    few = len(order) // 10
    print(
        f"  Errors: {np.sum(~right[order[:few]])} among the {few} rows with the most epistemic "
        f"uncertainty, {np.sum(~right[order[few:]])} among the other {len(order) - few}."
    )

    figure = plt.figure(figsize=(13, 8), layout="constrained")
    top, bottom = figure.subfigures(2, 1)
    # a plane can be drawn, thirty features cannot: the same two methods on two of them
    pair = [20, 21]
    names = [str(data.feature_names[i]) for i in pair]
    labels = data.target_names[y_train[:60]]
    plane = fit_all(BayesianMLPClassifier((10,), random_state=0), X_train[:60, pair], labels)
    display = DecisionBoundaryUncertaintyDisplay.from_estimator(
        plane["hmc"],
        X_train[:60, pair],
        labels,
        point_estimator=plane["map"],
        eps=10.0,
        point_title="map, 60 rows and two features",
        ax=top.subplots(1, 3, sharex=True, sharey=True),
    )
    display.ax_[1].set_title("hmc")
    for ax in display.ax_:
        ax.set_xlabel(names[0])
    display.ax_[0].set_ylabel(names[1])
    left, right_panel = bottom.subplots(1, 2)
    for name, model in fitted.items():
        ReliabilityDisplay.from_estimator(model, X_test, y_test, name=name, ax=left)
    left.set_title("reliability, all features")
    right_panel.hist(
        [epistemic[right], epistemic[~right]],
        bins=20,
        stacked=True,
        label=["right", "wrong"],
        color=["#6baed6", "#cb181d"],
    )
    right_panel.set(
        title="epistemic uncertainty of the test rows, all features",
        xlabel="epistemic uncertainty (nats)",
        ylabel="rows",
        yscale="symlog",
    )
    right_panel.legend()
    figure.savefig(OUTPUT / "classification.png", dpi=110)
    plt.close(figure)


def regression() -> None:
    data = load_diabetes(scaled=False)
    X_train, X_test, y_train, y_test = train_test_split(
        data.data, data.target, test_size=0.5, random_state=0
    )
    print(f"\nDiabetes: {len(X_train)} rows to fit, {len(X_test)} to test")
    # one noise for all rows, since a single mode could fit some of them with next to none
    regressor = BayesianMLPRegressor((10,), noise="learned", random_state=0)
    fitted = fit_all(regressor, X_train, y_train)

    def coverage(model):
        lower, upper = model.predict_interval(X_test, coverage=0.9).T
        return np.mean((lower <= y_test) & (y_test <= upper))

    rows = {
        "RMSE (low)": lambda model: root_mean_squared_error(y_test, model.predict(X_test)),
        "neg. log density (low)": lambda model: (
            -model.log_predictive_density(X_test, y_test).mean()
        ),
        "in the 90 % interval": coverage,
    }
    print_table(rows, fitted)

    figure, axes = plt.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    bmi = list(data.feature_names).index("bmi")
    for ax, (name, model) in zip(axes, fitted.items(), strict=True):
        PredictiveBandDisplay.from_estimator(
            model, X_train, bmi, y_train, grid_range=(15, 55), ax=ax, legend=name == "hmc"
        )
        ax.set(
            title=f"{name}, the other features at their medians",
            xlabel="body mass index",
            ylabel="progression of the disease",
        )
    figure.savefig(OUTPUT / "regression.png", dpi=110)
    plt.close(figure)


def fit_all(estimator, X, y) -> dict:
    """Fit a copy of the estimator by each method."""
    return {
        name: clone(estimator).set_params(method=method).fit(X, y)
        for name, method in METHODS.items()
    }


def print_table(rows, fitted) -> None:
    print(f"  {'':24s}" + "".join(f"{name:>10s}" for name in fitted))
    for title, measure in rows.items():
        values = "".join(f"{measure(model):10.3f}" for model in fitted.values())
        print(f"  {title:24s}{values}")
    found = fitted["hmc"].diagnostics_
    print(
        f"  hmc: largest R-hat {found['r_hat_max']:.3f} (1 is best), smallest effective sample "
        f"size {found['ess_bulk_min']:.0f}, {found['n_divergences']} divergences"
    )


if __name__ == "__main__":
    main()
