"""A table that does not fit: one pass of SGLD over a memory map.

20 million rows x 20 columns of float32 (1.6 GB) in a file, y = a smooth function of them with
noise; ``BayesianMLPRegressor`` with SGLD, one chain that takes every minibatch of 1,000 rows once.
Private memory is the peak of RssAnon during the fit less that after the imports: pages of the file
belong to the system and do not count. Throughput is that of the steps, beside a bare torch loop
with the same network, loss and optimiser step over the same minibatches (windows of 64 blocks of
1,024 rows, shuffled), whose forward and backward passes are autograd's. Checks and scalers, which
read the file some times more, are in the seconds of the whole fit.

    python examples/benchmarks/memmap.py [--quick] [--rows 20000000] [--folder .]

``--quick`` takes two million rows. The file is removed in the end.
"""

import threading
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import _one_core  # noqa: F401
import numpy as np
import torch
from _common import finish, parse, rounded, table
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPRegressor
from skbayes.inference import MAP, SGLD

N_COLUMNS, N_HIDDEN, BATCH, RATE = 20, 50, 1000, 1e-4
BLOCK, WINDOW = 1024, 64


def rss_anon() -> int:
    """Private memory of this process in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no RssAnon: this benchmark needs Linux.")


class Peak:
    """The largest `rss_anon` while a block of code runs."""

    def __enter__(self):
        self.value, self._stop = rss_anon(), threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.value = max(self.value, rss_anon())

    def __exit__(self, *args) -> None:
        self._stop.set()
        self._thread.join()


def make(folder: Path, n: int) -> tuple[np.memmap, np.ndarray]:
    """The table, written in parts."""
    X = np.memmap(folder / "X.f32", dtype=np.float32, mode="w+", shape=(n, N_COLUMNS))
    y = np.empty(n, dtype=np.float32)
    rng = np.random.default_rng(0)
    for start in range(0, n, 1 << 18):
        part = rng.standard_normal((min(1 << 18, n - start), N_COLUMNS), dtype=np.float32)
        X[start : start + len(part)] = part
        y[start : start + len(part)] = np.sin(part[:, 0]) + part[:, 1] * part[:, 2]
    y += 0.3 * rng.standard_normal(n, dtype=np.float32)
    X.flush()
    return np.memmap(folder / "X.f32", dtype=np.float32, mode="r", shape=(n, N_COLUMNS)), y


def bare_loop(X: np.memmap, y: np.ndarray) -> float:
    """Rows per second of a plain loop over shuffled minibatches, one pass."""
    n = len(X)
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Linear(N_COLUMNS, N_HIDDEN), torch.nn.Tanh(), torch.nn.Linear(N_HIDDEN, 1)
    )
    optimiser = torch.optim.SGD(net.parameters(), lr=RATE)
    rng = np.random.default_rng(1)
    blocks = rng.permutation(-(-n // BLOCK))
    done, start = 0, time.perf_counter()
    for first in range(0, len(blocks), WINDOW):
        rows = (np.sort(blocks[first : first + WINDOW])[:, None] * BLOCK + np.arange(BLOCK)).ravel()
        rows = rows[rows < n]
        inputs, targets = torch.as_tensor(X[rows]), torch.as_tensor(y[rows])
        order = torch.as_tensor(rng.permutation(len(rows)))
        for index in order.split(BATCH):
            optimiser.zero_grad()
            loss = torch.nn.functional.mse_loss(net(inputs[index])[:, 0], targets[index])
            loss.backward()
            optimiser.step()
            done += len(index)
    return done / (time.perf_counter() - start)


class Timed(SGLD):
    """SGLD that notes when each tenth of the steps is done."""

    ticks: ClassVar[list[float]] = []

    def run(self, log_posterior, theta0, streams, on_step=None, **kwargs):
        def tick(done, total, text):
            self.ticks.append(time.perf_counter())

        return super().run(log_posterior, theta0, streams, tick, **kwargs)


def main() -> None:
    before = rss_anon()
    args = parse(
        __doc__,
        ("--rows", {"type": int, "default": 20_000_000}),
        ("--folder", {"default": None, "help": "where the file is written"}),
    )
    n = 2_000_000 if args.quick else args.rows
    torch.set_num_threads(1)
    with TemporaryDirectory(dir=args.folder) as folder:
        X, y = make(Path(folder), n)
        steps = n // BATCH
        method = Timed(
            n_chains=1,
            n_warmup=0,
            n_draws=10,
            n_steps=steps // 10,
            batch_size=BATCH,
            learning_rate=RATE,
            decay=0,
            init=MAP(solver="adam", max_epochs=2),
        )
        reg = BayesianMLPRegressor(
            (N_HIDDEN,), activation="tanh", noise=0.3, method=method, random_state=0
        )
        warnings.simplefilter("ignore", ConvergenceWarning)  # one pass is no long chain
        with Peak() as peak:
            start = time.perf_counter()
            reg.fit(X, y)
        seconds = time.perf_counter() - start
        ours = 9 * (steps // 10) * BATCH / (Timed.ticks[-1] - Timed.ticks[-10])
        bare = bare_loop(X, y)
        some = slice(0, 10_000)
        r2 = reg.score(np.array(X[some]), y[some])
    gib = (peak.value - before) / 2**30
    table(
        [
            {"what": "private memory above import, GiB", "value": gib},
            {"what": "seconds of the whole fit", "value": seconds},
            {"what": "rows per second, SGLD", "value": ours},
            {"what": "rows per second, bare torch loop", "value": bare},
            {"what": "ratio", "value": ours / bare},
            {"what": "R2 on 10,000 rows", "value": r2},
        ]
    )
    finish(
        "memmap",
        {
            "rows": n,
            "private_gib": rounded(gib, 3),
            "fit_seconds": rounded(seconds, 1),
            "rows_per_second": rounded(ours, 0),
            "bare_rows_per_second": rounded(bare, 0),
            "ratio": rounded(ours / bare, 3),
            "r2": rounded(r2, 3),
        },
    )


if __name__ == "__main__":
    main()
