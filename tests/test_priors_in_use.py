"""Priors with methods of every kind, and through an estimator."""

import numpy as np
import pytest
import torch
from problems import make_log_posterior
from settings import METHOD_SETTINGS
from sklearn.datasets import load_iris

from skbayes import BayesianMLPClassifier
from skbayes.inference import MAP, Streams
from skbayes.model.priors import PRIORS

OLD = {"normal", "laplace", "student_t", "hierarchical"}
IMPROPER = {"log_uniform", "flat"}


@pytest.mark.parametrize("method", ["map", "anchored", "hmc", "laplace", "vi"])
@pytest.mark.parametrize("prior", sorted(set(PRIORS) - OLD))
def test_methods_run(prior, method):
    target = make_log_posterior("bernoulli", prior=PRIORS[prior]())
    settings = METHOD_SETTINGS[method]
    with torch.no_grad():
        if method == "laplace" or (method == "anchored" and prior in IMPROPER):
            with pytest.raises(ValueError, match="prior"):
                settings.run(target, None, Streams(1, settings.chain_count()))
            return
        posterior = settings.run(target, None, Streams(1, settings.chain_count()))
    assert posterior.draws.shape[2] == target.n_params
    assert np.isfinite(posterior.draws).all()


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.parametrize("prior", sorted(set(PRIORS) - OLD))
def test_estimators_take_their_names(prior):
    X, y = load_iris(return_X_y=True)
    clf = BayesianMLPClassifier((4,), method=MAP(max_epochs=100), prior=prior, random_state=0)
    score = clf.fit(X, y).score(X, y)
    assert score > 0.8 or prior == "log_uniform"  # whose mode is next to zero
    named = clf.posterior_.unflatten()
    assert named["layers.0.weight"].shape == (1, 1, 4, 4)
    if prior in IMPROPER:
        with pytest.raises(ValueError, match="improper"):
            clf.sample_prior(X)
    else:
        assert np.isfinite(clf.sample_prior(X, 3, random_state=0)).all()
