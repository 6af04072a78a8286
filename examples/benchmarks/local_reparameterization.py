"""The local reparameterisation trick: noise of the gradient, and time, as in its paper's tables.

Variance. A classifier of digits (64 inputs, two layers of 100 tanh units) with independent normal
weights is trained for 10 and for 100 epochs. Then the gradient of the expected log likelihood by
the means of the weights is estimated 200 times from minibatches of 500 rows: with the outputs drawn
(local), signs (flipout), weights drawn for every row on their own (separate), one draw of the
weights for the minibatch (weight), and the means alone (no noise, so that only the choice of rows
varies). The table has the variance of an entry, the mean over a layer's weights, for the bottom and
the top layer. Kingma, Salimans and Welling (2015, table 1) have the same with a minibatch of 1,000.

Time. A layer of 1,000 inputs and 1,000 units on a batch of 100 rows, forward and backward, float32:
the trick, against one batched product of rows and weights that are drawn for every row.

    python examples/benchmarks/local_reparameterization.py [--quick]
"""

import statistics
import time

import _one_core  # noqa: F401
import numpy as np
import torch
from _common import finish, parse, table
from sklearn.datasets import load_digits

from skbayes.inference import Streams
from skbayes.inference.ascent import ascend
from skbayes.layers.families import MeanField
from skbayes.layers.objective import Objective
from skbayes.layers.passes import VariationalNetwork
from skbayes.layers.variational import Noise, VariationalLayer
from skbayes.model import Categorical, Inputs, LogPosterior, MLPNetwork, NormalPrior

ESTIMATORS = ("local", "flipout", "separate", "weight", "mean")
CPU = torch.device("cpu")
BATCH = 500


def digits() -> LogPosterior:
    X, y = load_digits(return_X_y=True)
    X = (X - X.mean(0)) / np.maximum(X.std(0), 1e-6)
    network = MLPNetwork(64, (100, 100), 10, "tanh")
    kw = {"dtype": torch.float32, "device": CPU}
    return LogPosterior(
        network,
        Categorical(),
        NormalPrior(1.0, fan_in=True).build(network),
        Inputs(X, scale=network.input_scale, **kw),
        torch.as_tensor(np.eye(10)[y].T[None].copy(), **kw),
    )


def gradient(target: LogPosterior, family: MeanField, noise: Noise, estimator: str, rows):
    """An estimate of the gradient by the means, (n_params,)."""
    if estimator == "separate":
        theta = family.sample(len(rows), noise)  # a chain for every row
        return target.minibatch(rows[:, None]).grad(theta).mean(0) - prior_part(target, theta)
    objective = Objective(target, family, VariationalNetwork.of(target, noise, estimator))
    mean, var = family.moments()
    fit = objective.log_likelihood(target.minibatch(rows), mean, var)
    return torch.autograd.grad(fit, family.mean)[0]


def prior_part(target: LogPosterior, theta: torch.Tensor) -> torch.Tensor:
    return target.log_prior_and_grad(theta)[1].mean(0)


def variances(quick: bool) -> list[dict]:
    target = digits()
    streams, noise = Streams(0, 1), Noise(0, CPU)
    family = MeanField(target, target.initial(streams)[0], 0.3)
    objective = Objective(target, family, VariationalNetwork.of(target, noise, "local"))
    layers = {"bottom": target.network.layers[0].weight, "top": target.network.layers[-1].weight}
    rows = [{"estimator": name} for name in ESTIMATORS]
    done = 0
    for epochs in (2, 5) if quick else (10, 100):
        settings = {"learning_rate": 1e-3, "batch_size": 100, "max_epochs": epochs - done}
        ascend(objective, streams, **settings)
        done = epochs
        for row in rows:
            rng, found = np.random.default_rng(0), []
            for _ in range(20 if quick else 200):
                index = rng.choice(target.n, BATCH, replace=False)
                found.append(gradient(target, family, noise, row["estimator"], index).clone())
            spread = torch.stack(found).var(0)
            for layer, span in layers.items():
                row[f"{layer}, {epochs} epochs"] = float(spread[span].mean())
    return rows


def times(quick: bool) -> dict:
    n, width = 100, 300 if quick else 1000
    noise = Noise(0, CPU)
    x = noise.normal(n, width, like=torch.zeros(0))
    mean = (0.03 * noise.normal(width, width, like=x)).requires_grad_()
    log_var = torch.full((width, width), -6.0, requires_grad=True)
    layer = VariationalLayer(torch.nn.utils.skip_init(torch.nn.Linear, width, width), noise)

    def trick():
        layer.put(mean, None, log_var.exp(), None)
        return layer(x)

    def separate():
        weights = mean + (0.5 * log_var).exp() * noise.normal(n, width, width, like=x)
        return (weights @ x[:, :, None])[:, :, 0]

    def timed(function) -> float:  # of the CPU, since the machine may be busy
        start = time.process_time()
        torch.autograd.grad(function().square().sum(), (mean, log_var))
        return time.process_time() - start

    trick_times, separate_times = [], []
    for _ in range(3 if quick else 7):
        separate_times.append(timed(separate))
        trick_times.append(statistics.median(timed(trick) for _ in range(5)))
    ratios = [s / t for s, t in zip(separate_times, trick_times, strict=True)]
    return {
        "trick, ms": 1e3 * statistics.median(trick_times),
        "separate, ms": 1e3 * statistics.median(separate_times),
        "ratio": statistics.median(ratios),
    }


def main() -> None:
    args = parse(__doc__)
    torch.set_num_threads(1)
    rows = variances(args.quick)
    shown = [{k: v if isinstance(v, str) else f"{v:.3g}" for k, v in row.items()} for row in rows]
    table(shown)
    print()
    found = times(args.quick)
    table([found], digits=1)
    figures = {row.pop("estimator"): {k: float(f"{v:.3g}") for k, v in row.items()} for row in rows}
    finish("local_reparameterization", {"variance": figures, "time": found})


if __name__ == "__main__":
    main()
