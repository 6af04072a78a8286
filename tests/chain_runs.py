"""Short runs of chains, and whether two of them are the same."""

import numpy as np
from settings import METHOD_SETTINGS

from skbayes import BayesianMLPRegressor
from skbayes.inference import MAP, NUTS
from skbayes.inference.checkpoint import fingerprint
from skbayes.inference.kernel import ChainMethod

CHAINS = {name: m for name, m in METHOD_SETTINGS.items() if isinstance(m, ChainMethod)}
START = MAP(max_epochs=10)


class Killed(Exception):
    """Stands for the end of the process."""


def short_run():
    """A model whose warm-up is long enough for the metric to be estimated; 44 iterations."""
    method = NUTS(2, n_warmup=24, n_draws=10, thin=2, max_tree_depth=3, init=START)
    return BayesianMLPRegressor((3,), method=method, random_state=0)


def same(a, b):
    """Check that two posteriors are equal to the last bit."""
    np.testing.assert_array_equal(a.draws, b.draws)
    assert a.draws.dtype == b.draws.dtype
    for x, y in ((a.stats, b.stats), (a.adapted, b.adapted)):
        assert x.keys() == y.keys()
        for name in x:
            np.testing.assert_array_equal(x[name], y[name])
    if a.state is not None:
        assert fingerprint(a.state) == fingerprint(b.state)
