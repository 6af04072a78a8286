"""What all tests share: one thread, and data sets that are made once."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning

torch.set_num_threads(1)


@pytest.fixture
def quiet():
    """Leave out convergence warnings, which runs as short as those of the tests must give."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        yield


@pytest.fixture(scope="session")
def blobs():
    """X (60, 4) and three classes that overlap."""
    rng = np.random.default_rng(0)
    y = rng.integers(3, size=60)
    X = rng.normal(size=(60, 4)) + np.eye(3, 4)[y] * 2
    return X, y


@pytest.fixture(scope="session")
def binary():
    """X (60, 3) and two classes that overlap."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(60, 3))
    y = (X[:, 0] + 0.5 * rng.normal(size=60) > 0).astype(int)
    return X, y


@pytest.fixture(scope="session")
def curve():
    """X (60, 2) and a noisy target with scale and offset."""
    rng = np.random.default_rng(2)
    X = rng.normal(size=(60, 2))
    y = 5.0 + 3.0 * np.sin(X[:, 0]) + X[:, 1] + 0.5 * rng.normal(size=60)
    return X, y
