"""Predict with a pruned LeNet-300-100 as sparse matrices, against the dense network.

Milliseconds (medians over runs of a few calls each, in turn) on one core and on two, for batches of
1, 100 and 10,000 images, of

- dense: the whole network in torch, its removed weights at zero,
- smaller: what `compact` leaves of it, in torch,
- sparse: `SparseNetwork`,

and how many times faster than dense the last one is. The network is that of ``--network`` (a file
that `sparse_mnist.py` writes), or else one whose weights are kept at random, as many in each layer
as Molchanov, Ashukha and Vetrov (2017) publish (98.9, 97.2 and 62.0 % removed): there
hardly a unit or an input can be removed whole.

    python examples/benchmarks/pruned_prediction.py [--network lenet300.npz] [--quick]
"""

import json
import os
import subprocess
import sys
import time

import numpy as np
from _common import finish, parse, table

REMOVED = (0.989, 0.972, 0.62)
BATCHES = (1, 100, 10_000)


def lenet_300_100(path: str | None):
    """The pruned network in torch."""
    import torch
    from torch import nn

    from skbayes.layers.pruning import apply_masks

    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    if path is not None:
        with np.load(path) as file:
            net.load_state_dict({name: torch.as_tensor(file[name]) for name in net.state_dict()})
        return net.eval()
    rng = np.random.default_rng(0)
    names = ("0.weight", "2.weight", "4.weight")
    masks = {
        name: rng.random(net.state_dict()[name].shape) >= removed
        for name, removed in zip(names, REMOVED, strict=True)
    }
    return apply_masks(net, masks).eval()


def measure(path: str | None, quick: bool) -> dict:
    """Milliseconds by batch and way, in this process."""
    import torch

    from skbayes.layers.compact import compact
    from skbayes.layers.sparse import SparseNetwork

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    net = lenet_300_100(path)
    small, sparse = compact(net), SparseNetwork(net)
    layers = [m for m in net if isinstance(m, torch.nn.Linear)]

    def of(module):
        def predict(X):
            with torch.no_grad():
                return module(torch.from_numpy(X)).numpy()

        return predict

    ways = {"dense": of(net), "smaller": of(small), "sparse": sparse}
    figures = {
        "kept": sum(int((m.weight != 0).sum()) for m in layers),
        "whole": sum(m.weight.numel() for m in layers),
        "widths": [m.in_features for m in small if isinstance(m, torch.nn.Linear)],
    }
    rng = np.random.default_rng(1)
    for n in BATCHES:
        X = rng.random((n, 784), dtype=np.float32)
        times = {name: [] for name in ways}
        expected = ways["dense"](X)
        for predict in ways.values():
            np.testing.assert_allclose(predict(X), expected, rtol=1e-4, atol=1e-5)
        for _ in range(5 if quick else 25):
            for name, predict in ways.items():
                for k in range(4 if n > 1000 else 21):
                    start = time.perf_counter()
                    predict(X)
                    if k:  # the first finds the caches full of another's weights
                        times[name].append(time.perf_counter() - start)
        figures[str(n)] = {name: 1e3 * float(np.median(t)) for name, t in times.items()}
    return figures


def main() -> None:
    args = parse(
        __doc__,
        ("--network", {"default": None, "help": "weights that sparse_mnist.py has written"}),
        ("--child", {"action": "store_true", "help": "used by the script itself"}),
    )
    if args.child:
        print(json.dumps(measure(args.network, args.quick)))
        return
    mine = sorted(os.sched_getaffinity(0))
    rows, figures = [], {}
    for n_cores in (1, 2)[: len(mine)]:
        command = ["taskset", "-c", ",".join(map(str, mine[-n_cores:])), sys.executable, __file__]
        command += ["--child"] + ["--quick"] * args.quick
        command += [] if args.network is None else ["--network", args.network]
        threads = {"OMP_NUM_THREADS": str(n_cores), "MKL_NUM_THREADS": str(n_cores)}
        answer = subprocess.run(
            command, capture_output=True, text=True, check=True, env=os.environ | threads
        )
        figures[f"{n_cores} cores"] = of_cores = json.loads(answer.stdout.splitlines()[-1])
        for n in BATCHES:
            times = of_cores[str(n)]
            faster = times["dense"] / times["sparse"]
            rows.append({"cores": n_cores, "batch": n, **times, "times faster": faster})
    shown = figures["1 cores"]
    print(f"{shown['kept']} of {shown['whole']} weights kept; inputs left {shown['widths']}")
    table(rows)
    finish("pruned_prediction", figures)


if __name__ == "__main__":
    main()
