"""A table that does not fit, for the variational autoencoder.

10 million rows x 30 columns of float32 (1.2 GB) in a file: two curved clusters in five dimensions,
mixed into 30 columns with noise. ``VAEDensityEstimator`` fits it from a memory map, tries its three
models, and scores 10,000 rows. Private memory is the peak of RssAnon during the fit less that after
the imports: pages of the file belong to the system and do not count. The log density of new rows is
given beside that of a normal with the same mean and covariance.

    python examples/benchmarks/memmap_vae.py [--quick] [--rows 10000000] [--folder .]

``--quick`` takes a million rows and fewer steps. The file is removed in the end.
"""

import _one_core  # noqa: F401  isort: skip

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from _common import finish, parse, rounded, table
from memmap import Peak, rss_anon
from scipy.stats import multivariate_normal

from skbayes import VAEDensityEstimator

N_COLUMNS, N_INSIDE, PART = 30, 5, 1 << 18


def rows(rng: np.random.Generator, n: int) -> np.ndarray:
    """Rows (n, 30), float32."""
    inside = rng.standard_normal((n, N_INSIDE), dtype=np.float32)
    inside[:, 0] += np.where(rng.random(n) < 0.3, 3.0, -3.0)
    inside[:, 1] += 0.3 * inside[:, 0] ** 2
    mix = np.random.default_rng(1).standard_normal((N_INSIDE, N_COLUMNS)).astype(np.float32)
    return inside @ mix + 0.5 * rng.standard_normal((n, N_COLUMNS), dtype=np.float32)


def make(folder: Path, n: int) -> np.memmap:
    """The table, written in parts."""
    X = np.memmap(folder / "X.f32", dtype=np.float32, mode="w+", shape=(n, N_COLUMNS))
    rng = np.random.default_rng(0)
    for start in range(0, n, PART):
        X[start : start + PART] = rows(rng, min(PART, n - start))
    X.flush()
    return np.memmap(folder / "X.f32", dtype=np.float32, mode="r", shape=(n, N_COLUMNS))


def main() -> None:
    before = rss_anon()
    args = parse(
        __doc__,
        ("--rows", {"type": int, "default": 10_000_000}),
        ("--folder", {"default": None, "help": "where the file is written"}),
    )
    n = 1_000_000 if args.quick else args.rows
    torch.set_num_threads(1)
    with TemporaryDirectory(dir=args.folder) as folder:
        X = make(Path(folder), n)
        vae = VAEDensityEstimator(random_state=0)
        if args.quick:
            vae.set_params(linear_path=True, batch_size=1024, max_epochs=1)
        with Peak() as peak:
            start = time.process_time()
            vae.fit(X)
        seconds = time.process_time() - start
        some = np.array(X[:200_000:2])
    new = rows(np.random.default_rng(2), 10_000).astype(np.float64)
    normal = multivariate_normal(some.mean(0), np.cov(some.T.astype(np.float64)))
    gib = (peak.value - before) / 2**30
    ours, theirs = vae.score(new), float(normal.logpdf(new).mean())
    table(
        [
            {"what": "private memory above import, GiB", "value": gib},
            {"what": "CPU seconds of the fit", "value": seconds},
            {"what": "steps of the model that was kept", "value": vae.n_iter_},
            {"what": "log density of 10,000 new rows", "value": ours},
            {"what": "that of a normal", "value": theirs},
        ]
    )
    finish(
        "memmap_vae",
        {
            "rows": n,
            "private_gib": rounded(gib, 3),
            "fit_cpu_seconds": rounded(seconds, 1),
            "model": vae.candidate_,
            "steps": vae.n_iter_,
            "log_density": rounded(ours, 3),
            "normal": rounded(theirs, 3),
        },
    )


if __name__ == "__main__":
    main()
