"""Networks that prune themselves on MNIST: error and compression, next to what is published.

``VariationalDropoutClassifier`` on LeNet-300-100 and LeNet-5 (Caffe): the kind "sparse"
(Molchanov, Ashukha and Vetrov, 2017), and the kind "group" with the normal-Jeffreys prior (gnj) and
the horseshoe (ghs) (Louizos, Ullrich and Welling, 2017). 5,000 of the 60,000 training rows are held
out: settings and the threshold of log alpha are chosen on them, and the network is trained on the
other 55,000. The threshold is the one with the highest compression among those whose error on
the held-out rows is at most a standard error above the lowest; by groups each layer has one of its
own, as in the paper. Errors are those of the pruned network at the mean of its weights, as in the
papers; with its bits, of the weights rounded to them.

LeNet-5 is trained in stages: after the first, units and channels that have become useless are taken
out for good (`to_module(whole_units=True)`), and the smaller network is trained on from the weights
that it has, at a fraction of the time. Compression is counted against the whole network.

A run is kept in the folder of ``--state`` after every epoch (about every half minute) and goes on
from there if it was stopped. On one core LeNet-300-100 takes a quarter of an hour, LeNet-5 hours.

    python examples/benchmarks/sparse_mnist.py --data-dir DIR --net lenet300 --kind sparse \
        [--state FOLDER] [--epochs N [N ...] --rates R [R ...]] [--quick]

``--quick`` trains a smaller network on scikit-learn's digits, in less than a minute.
"""

import _one_core  # noqa: F401  isort: skip

import time
from pathlib import Path

import numpy as np
import torch
from _common import finish, load, parse, table
from sklearn.datasets import load_digits
from torch import nn

from skbayes import VariationalDropoutClassifier
from skbayes.layers.bits import compression_ratio, round_to_bits
from skbayes.layers.compact import compact

HIGHEST, LOWEST, STEP = 3.0, -8.0, 0.25
"""Thresholds of log alpha that are tried."""
AT_ONCE = (1, 2, 4, 8, 16)
"""Groups of a layer that may go at once."""
HIGHEST_OF_STAGE, ERRORS_OF_STAGE = 8.0, 2.0
"""In the middle of the training: a mean may still matter where its noise is large, and the next
stage makes up for an error that is a few standard errors larger (one at the end)."""
ERRORS_OF_CHANNELS = {("lenet5", "ghs"): 16.0}
"""Standard errors that channels may cost before the last stage, which mends far more than that: the
few that are left each cost more than two, although fewer of them do as well once trained."""
N_HELD_OUT = 5_000

# error (%), compression by pruning, and by pruning and precision
PUBLISHED = {
    ("lenet300", "sparse"): (1.92, 68, None),
    ("lenet5", "sparse"): (0.75, 280, None),
    ("lenet5", "gnj"): (1.0, 108, 361),
    ("lenet5", "ghs"): (1.0, 156, 419),
}

KINDS = {
    "sparse": {"kind": "sparse"},
    "gnj": {"kind": "group", "group_prior": "normal_jeffreys"},
    "ghs": {"kind": "group", "group_prior": "horseshoe"},
}

# epochs and rate of the stages, chosen on the held-out rows
STAGES = {
    ("lenet300", "sparse"): [(100, 0.002)],
    ("lenet5", "sparse"): [(14, 0.003), (40, 0.003)],
    ("lenet5", "gnj"): [(18, 0.003), (30, 0.003), (60, 0.003), (60, 0.003), (60, 0.003)],
    ("lenet5", "ghs"): [(18, 0.003), (30, 0.003), (60, 0.003), (60, 0.003), (60, 0.003)],
}
SETTINGS = {"batch_size": 128, "kl_warmup": 0.2}
QUICK = {"batch_size": 64, "kl_warmup": 0.3}


class LeNet5(nn.Sequential):
    """LeNet-5 as Caffe has it: 20 and 50 filters of 5 x 5, 500 hidden units."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 20, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(800, 500),
            nn.ReLU(),
            nn.Linear(500, 10),
        )


def data(args) -> dict[str, np.ndarray]:
    """Rows in [0, 1]: "train", "held_out" and "test", each X and y."""
    if args.quick:
        X, y = load_digits(return_X_y=True)
        X, n_held_out, n_test = X.astype(np.float32) / 16, 300, 400
        order = np.random.default_rng(0).permutation(len(X))
        X, y = X[order], y[order]
        X, y, X_test, y_test = X[:-n_test], y[:-n_test], X[-n_test:], y[-n_test:]
    else:
        with load(args.data_dir, "images/mnist.npz") as file:
            X, X_test = (file[n].astype(np.float32) / 255 for n in ("X_train", "X_test"))
            y, y_test = (file[n].astype(int) for n in ("y_train", "y_test"))
        n_held_out = N_HELD_OUT
        order = np.random.default_rng(0).permutation(len(X))
        X, y = X[order], y[order]
    shape = (-1, 1, 28, 28) if args.net == "lenet5" else (-1, X[0].size)
    X, X_test = X.reshape(len(X), *shape[1:]), X_test.reshape(len(X_test), *shape[1:])
    return {
        "train": (X[n_held_out:], y[n_held_out:]),
        "held_out": (X[:n_held_out], y[:n_held_out]),
        "test": (X_test, y_test),
    }


def error(module: nn.Module, rows) -> float:
    """Percentage of wrong labels."""
    X, y = rows
    with torch.no_grad():
        parts = [module(torch.from_numpy(X[i : i + 1000])) for i in range(0, len(X), 1000)]
    return 100 * float((torch.cat(parts).argmax(1).numpy() != y).mean())


def whole_module(clf) -> nn.Module:
    """The network at the mean of its weights, pruned, in its full size."""
    return clf._pruned_module().eval()


def rounded(clf) -> nn.Module:
    """The same with weights rounded to the bits that they need."""
    module = whole_module(clf)
    adapted = clf.posterior_.adapted
    weights = round_to_bits(adapted["weight_mean"], adapted["weight_var"], clf.masks_)
    module.load_state_dict({n: torch.as_tensor(w) for n, w in weights.items()}, strict=False)
    return module


def tried(clf, held_out, threshold, share: float) -> dict:
    """The network pruned at a threshold: its error on the held-out rows, and how much is gone."""
    clf.prune(threshold)
    pruning, precision = (part * share for part in clf.compression_ratio_)
    found = error(compact(whole_module(clf)), held_out)
    return {"held-out error": found, "pruning": pruning, "precision": precision}


def by_layer(clf, held_out, thresholds: dict, names, most: float, share: float) -> dict:
    """Go on from thresholds, each of the named layers by itself; the thresholds of all.

    Again and again the next few groups of one layer go, of the one that makes the network smaller
    by most for each held-out row that it costs, while the error is at most ``most``.
    """
    row = 100 / len(held_out[1])
    now = tried(clf, held_out, thresholds, share)
    while True:
        steps = []
        for name in names:
            alphas = clf.log_alpha_[name]
            below = np.unique(alphas[alphas < thresholds[name]])[::-1]
            for k in (k for k in AT_ONCE if k < below.size):
                own = {**thresholds, name: float(below[k - 1])}
                then = tried(clf, held_out, own, share)
                gain = np.log(then["pruning"] / now["pruning"])
                rows = max(1.0, (then["held-out error"] - now["held-out error"]) / row)
                if gain > 0 and then["held-out error"] <= most:
                    steps.append((gain / rows, own, then))
        if not steps:
            print(f"by layer: {thresholds}, {now}", flush=True)
            return thresholds
        _, thresholds, now = max(steps, key=lambda step: step[0])


def choose(clf, held_out, highest: float, share=1.0, n_errors=1.0, n_errors_of_channels=None):
    """Prune at the threshold with the highest compression whose held-out error is allowed.

    That is one at most ``n_errors`` standard errors above the lowest. By groups each layer then
    goes on by itself, see `by_layer`, and convolutions in the end up to an error of their own.
    """
    found = []
    for threshold in np.arange(highest, LOWEST - STEP, -STEP):
        found.append({"threshold": float(threshold), **tried(clf, held_out, threshold, share)})
    table(found, digits=2)
    lowest = min(entry["held-out error"] for entry in found)
    error_of_lowest = np.sqrt(lowest * (100 - lowest) / len(held_out[1]))  # percentages
    most = lowest + n_errors * error_of_lowest
    allowed = [entry for entry in found if entry["held-out error"] <= most]
    chosen = max(allowed, key=lambda entry: entry["pruning"])["threshold"]
    if clf.kind == "group":
        layers = list(clf.log_alpha_)
        chosen = by_layer(clf, held_out, dict.fromkeys(layers, chosen), layers, most, share)
        if n_errors_of_channels is not None:
            convolutions = [name for name in layers if clf.masks_[name].ndim == 4]
            most = lowest + n_errors_of_channels * error_of_lowest
            chosen = by_layer(clf, held_out, chosen, convolutions, most, share)
    clf.prune(chosen)
    return chosen


def main() -> None:
    args = parse(
        __doc__,
        ("--net", {"choices": ("lenet300", "lenet5"), "default": "lenet300"}),
        ("--kind", {"choices": tuple(KINDS), "default": "sparse"}),
        ("--epochs", {"type": int, "nargs": "+", "help": "of the stages, in place of the setting"}),
        ("--rates", {"type": float, "nargs": "+", "help": "learning rates of these stages"}),
        ("--state", {"default": None, "help": "folder in which the run is kept"}),
    )
    if args.quick and args.net == "lenet5":
        raise SystemExit("--quick is for --net lenet300 only: digits have 8 x 8 pixels")
    stages = [(60, 0.005)] if args.quick else STAGES.get((args.net, args.kind))
    if args.epochs:
        rates = args.rates or [0.005 if args.quick else 0.002] * len(args.epochs)
        stages = list(zip(args.epochs, rates, strict=True))
    elif stages is None:
        raise SystemExit(f"--epochs is needed for --net {args.net} --kind {args.kind}")
    settings = QUICK if args.quick else SETTINGS
    rows = data(args)
    sizes = (100, 50) if args.quick else (300, 100)
    network = {"module": LeNet5} if args.net == "lenet5" else {"hidden_layer_sizes": sizes}
    start = time.process_time()
    for stage, (n_epochs, rate) in enumerate(stages):
        clf = VariationalDropoutClassifier(
            **network, **KINDS[args.kind], **settings, max_epochs=n_epochs, learning_rate=rate,
            standardize=False, n_draws=2, random_state=0, verbose=1,
        )  # fmt: skip
        clf.fit(*rows["train"], checkpoint=args.state)
        n_weights = sum(mask.size for mask in clf.masks_.values())
        if stage == 0:
            n_whole = n_weights
        if stage + 1 < len(stages):
            last = stage + 2 == len(stages)
            of_channels = ERRORS_OF_CHANNELS.get((args.net, args.kind)) if last else None
            choose(
                clf, rows["held_out"], HIGHEST_OF_STAGE,
                n_errors=ERRORS_OF_STAGE, n_errors_of_channels=of_channels,
            )  # fmt: skip
            network = {"module": clf.to_module(whole_units=True)}
            widths = [list(m.weight.shape) for m in network["module"] if hasattr(m, "weight")]
            left = error(network["module"], rows["held_out"])
            print(f"after stage {stage}: layers {widths}, held-out error {left:.2f} %", flush=True)
    cpu = time.process_time() - start
    share = n_whole / n_weights  # that the stages before have taken out

    threshold = choose(clf, rows["held_out"], HIGHEST, share)
    whole, small = whole_module(clf), compact(whole_module(clf))
    ratio = [part * share for part in clf.compression_ratio_]
    places = compression_ratio(clf.masks_, clf.bit_precision_, index_bits=5)
    figures = {
        "net": args.net,
        "kind": args.kind,
        **settings,
        "epochs and rate of the stages": stages,
        "threshold": threshold,
        "test error": error(whole, rows["test"]),
        "test error of the smaller network": error(small, rows["test"]),
        "test error with its bits": error(rounded(clf), rows["test"]),
        "held-out error": error(whole, rows["held_out"]),
        "times smaller": ratio[0],
        "times smaller with bits": ratio[1],
        "times smaller with bits and 5-bit places": places * share,
        "removed (%)": {n: round(100 * share, 2) for n, share in clf.sparsity_.items()},
        "bits": clf.bit_precision_,
        "widths": [m.weight.shape[1] for m in small if hasattr(m, "weight")],
        "cpu seconds of this process": round(cpu),
    }
    published = PUBLISHED.get((args.net, args.kind))
    if published is not None and not args.quick:
        names = ("test error", "times smaller", "times smaller with bits")
        table(
            [
                {"": "published", **dict(zip(names, published, strict=True))},
                {"": "here", **{name: figures[name] for name in names}},
            ],
            digits=2,
        )
    if args.state is not None:
        name = f"{'digits' if args.quick else args.net}-{args.kind}.npz"
        np.savez(Path(args.state) / name, **{n: v.numpy() for n, v in whole.state_dict().items()})
    finish("sparse_mnist", figures)


if __name__ == "__main__":
    main()
