"""Runs of chains that are killed (kill -9) at random moments and go on from their checkpoints.

A fit of two groups of chains with ``checkpoint=`` runs in a process of its own, every other time
with ``n_jobs=2``. It is killed with all its workers at a random moment, and started again. What
was on disk when it was killed must still be there, byte for byte, and the draws in the end must be
those of a run that was left alone.

    python examples/benchmarks/crash.py [--quick] [--kills 10] [--seed 0]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hashlib
import json
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from _common import finish, parse, table
from sklearn.exceptions import ConvergenceWarning

from skbayes import BayesianMLPRegressor
from skbayes.inference import HMC, Ensemble, checkpoint

N_WARMUP = 100


def fit(folder: Path | None, n_draws: int, n_jobs: int, every: float) -> None:
    """What the child process does; its last line is a JSON object."""
    warnings.simplefilter("ignore", ConvergenceWarning)
    checkpoint.SAVE_EVERY = every
    write, seconds = checkpoint.write, []

    def timed(*args) -> None:
        begin = time.perf_counter()
        write(*args)
        seconds.append(time.perf_counter() - begin)

    checkpoint.write = timed
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 5))
    y = np.sin(2 * X[:, 0]) + X[:, 1] * X[:, 2] + 0.3 * rng.normal(size=300)
    method = HMC(
        n_chains=8,
        n_warmup=N_WARMUP,
        n_draws=n_draws,
        max_leapfrog=10,
        init=Ensemble(8, max_epochs=20),
    )
    model = BayesianMLPRegressor((10,), method=method, n_jobs=n_jobs, random_state=0)
    print("begins", flush=True)
    start = time.perf_counter()
    draws = model.fit(X, y, checkpoint=folder).posterior_.draws
    result = {
        "seconds": time.perf_counter() - start,
        "ms_per_file": round(1000 * float(np.mean(seconds or [0.0])), 1),
        "draws": hashlib.sha256(draws.tobytes()).hexdigest(),
        "finite": bool(np.isfinite(draws).all()),
    }
    print(json.dumps(result), flush=True)


def start(folder: Path | None, n_draws: int, n_jobs: int, every: float) -> subprocess.Popen:
    """Start a child in a session of its own and wait until its fit begins."""
    command = [sys.executable, __file__, "--child", str(folder or "")]
    command += [str(n_draws), str(n_jobs), str(every)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    line = child.stdout.readline()
    assert line == "begins\n", line
    return child


def end(child: subprocess.Popen) -> dict:
    """Wait for a child; what it has to say."""
    out = child.communicate()[0]
    if child.returncode:
        raise RuntimeError(f"a fit failed with exit code {child.returncode}")
    return json.loads(out.splitlines()[-1])


def kept(folder: Path) -> dict[Path, tuple[int, str]]:
    """Files of finished writes: time of the last change and hash."""
    return {
        path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in folder.rglob("*-*.npz")
    }


def iterations(files) -> int:
    """Iterations that are on disk, summed over the groups."""
    return sum(int(path.stem[10:]) - int(path.stem[:9]) for path in files)


def killed_once(rng, seconds: float, folder: Path, n_draws, n_jobs, every) -> dict | None:
    """Kill a fit at a random moment; None if it was over by then."""
    child = start(folder, n_draws, n_jobs, every)
    wait = float(rng.uniform(0.02, 0.98)) * seconds
    try:
        child.wait(wait)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
    now = time.time()
    child.communicate()
    if child.returncode != -signal.SIGKILL:
        return None
    # what a group has not on disk is lost: at most what it did since its last file
    total = N_WARMUP + n_draws
    last: dict[Path, tuple[int, int]] = {}
    for path, (stamp, _) in kept(folder).items():
        last[path.parent] = max(last.get(path.parent, (0, 0)), (int(path.stem[10:]), stamp))
    running = [now - stamp / 1e9 for iteration, stamp in last.values() if iteration < total]
    lost = max(running, default=0.0 if last else wait)
    return {"killed after (s)": wait, "since last file (s)": lost}


def main() -> None:
    args = parse(
        __doc__,
        ("--kills", {"type": int, "default": 10, "help": "runs that are killed"}),
        ("--seed", {"type": int, "default": 0, "help": "of the moments"}),
        ("--every", {"type": float, "default": 0.5, "help": "seconds between two files"}),
    )
    n_draws, kills = (100, 2) if args.quick else (500, args.kills)
    rng = np.random.default_rng(args.seed)
    rows = []
    with tempfile.TemporaryDirectory() as top:
        alone = {n: end(start(None, n_draws, n, args.every)) for n in (1, 2)}
        written = end(start(Path(top) / "whole", n_draws, 1, args.every))
        while len(rows) < kills:
            n_jobs = 1 + len(rows) % 2
            folder = Path(tempfile.mkdtemp(dir=top))
            settings = (n_draws, n_jobs, args.every)
            killed = killed_once(rng, alone[n_jobs]["seconds"], folder, *settings)
            if killed is None:
                continue
            before = kept(folder)
            result = end(start(folder, *settings))
            after = kept(folder)
            rows.append(
                {
                    "n_jobs": n_jobs,
                    **killed,
                    "files": len(before),
                    "iterations on disk": iterations(before),
                    "iterations": iterations(after),
                    "files unchanged": all(after.get(p) == was for p, was in before.items()),
                    "same draws": result["finite"] and result["draws"] == alone[1]["draws"],
                }
            )
            table(rows[-1:])
    print()
    table(rows)
    finish(
        "crash",
        {
            "kills": len(rows),
            "resumed": len(rows),
            "files_unchanged": sum(row["files unchanged"] for row in rows),
            "same_draws": sum(row["same draws"] for row in rows),
            "same_draws_with_two_processes": alone[2]["draws"] == alone[1]["draws"],
            "ms_per_file": written["ms_per_file"],
        },
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        folder, n_draws, n_jobs, every = sys.argv[2:]
        fit(Path(folder) if folder else None, int(n_draws), int(n_jobs), float(every))
    else:
        main()
