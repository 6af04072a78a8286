"""A variational autoencoder of MNIST: log likelihood by importance weighting, and pictures.

The usual setting: two hidden layers of 200 units on either side, 50 latent variables, Bernoulli
pixels, the objective "elbo". Training images are drawn anew from their grey values in every epoch,
the test images once with a fixed seed. One `partial_fit` gets five draws of all images, which are
five epochs; the learning rate falls over the run by the half cosine, and the divergence gets its
full weight over the first ten epochs.

Negative log likelihood in nats per test image, with all 784 pixels: pixels that are constant in
training are not in the model and get the probability (k + 1) / (n + 2) by their count. It is the
mean over all 10,000 images with 64 points of q each, plus the mean of what 5,000 points change on
the first 500 images (the standard error is that of this change). Beside it the evidence lower
bound, and the same figure for test images cut at a grey value of one half.

    python examples/benchmarks/vae_mnist.py --data-dir DIR [--epochs 300] [--state FILE]
        [--minutes 20] [--plots FOLDER] [--quick]

``--state`` keeps the model after every call and goes on from it; with ``--minutes`` a run stops
after that time, to be gone on with. ``--plots`` writes pictures: samples, reconstructions, and the
map of a second model with two latent variables. ``--quick`` takes 5,000 images and 3 epochs.
"""

import _one_core  # noqa: F401  isort: skip

import pickle
import time
from pathlib import Path

import numpy as np
from _common import finish, load, mean_and_error, parse, rounded, table

from skbayes import VAEDensityEstimator

FEW_POINTS, N_FEW, N_FIRST = 64, 5000, 500
RATE, RATE_END, EPOCHS_A_CALL = 1e-3, 3e-5, 5
BATCH, WARM_UP_EPOCHS = 128, 10


def draw(grey: np.ndarray, *seed: int) -> np.ndarray:
    """Pixels 0 or 1 with the grey values as probabilities."""
    rng = np.random.default_rng(seed)
    return (rng.random(grey.shape, dtype=np.float32) < grey).astype(np.float32)


def train(grey: np.ndarray, n_latent: int, epochs: int, state: Path | None, end: float):
    """The model after so many epochs, or as many as there was time for, and seconds per epoch."""
    found = {"epoch": 0, "seconds": 0.0}
    if state is not None and state.exists():
        found = pickle.loads(state.read_bytes())
    if not found["epoch"]:
        found["vae"] = VAEDensityEstimator(
            (200, 200),
            latent_dim=n_latent,
            linear_path=False,
            binary_features=np.arange(grey.shape[1]),
            batch_size=BATCH,
            warm_up=WARM_UP_EPOCHS * len(grey) // BATCH,
            n_importance=FEW_POINTS,
            random_state=0,
        )
    vae = found["vae"]
    while found["epoch"] < epochs and time.perf_counter() < end:
        start = time.process_time()
        share = found["epoch"] / epochs
        rate = RATE_END + (RATE - RATE_END) * 0.5 * (1 + np.cos(np.pi * share))
        done = found["epoch"]
        some = range(done, min(done + EPOCHS_A_CALL, epochs))
        vae.set_params(learning_rate=float(rate))
        vae.partial_fit(np.concatenate([draw(grey, 1, epoch) for epoch in some]))
        found["epoch"] = some.stop
        found["seconds"] += time.process_time() - start
        if state is not None:
            part = state.with_suffix(".part")
            part.write_bytes(pickle.dumps(found))
            part.replace(state)
        print(f"epoch {found['epoch']}: loss {vae.loss_curve_[-1]:.2f}", flush=True)
    return found


class Constant:
    """Pixels that were constant in training: the rule of succession."""

    def __init__(self, images: np.ndarray, vae: VAEDensityEstimator) -> None:
        left_out = np.ones(images.shape[1], dtype=bool)
        left_out[vae._columns.order] = False
        self.columns = np.flatnonzero(left_out)
        ones = (images[:, self.columns].sum(0) + 1) / (len(images) + 2)
        self.log_one, self.log_zero = np.log(ones), np.log1p(-ones)

    def log_prob(self, images: np.ndarray) -> np.ndarray:
        part = images[:, self.columns]
        return part @ self.log_one + (1 - part) @ self.log_zero


def likelihood(vae, constant: Constant, images: np.ndarray, points: int) -> dict:
    """Negative log likelihood, and bound, of test images."""
    rest = constant.log_prob(images)
    few = vae.set_params(n_importance=FEW_POINTS).score_samples(images) + rest
    first = images[:N_FIRST]
    many, ess = vae.set_params(n_importance=points).score_samples(first, return_ess=True)
    vae.set_params(n_importance=FEW_POINTS)
    change, error = mean_and_error(many + rest[:N_FIRST] - few[:N_FIRST])
    return {
        "nll": -few.mean() - change,
        "standard error": error,
        "nll, 64 points": -few.mean(),
        "elbo": float((vae.elbo(images) + rest).mean()),
        "median ess": float(np.median(ess)),
    }


def pictures(folder: Path, vae, flat, test, labels) -> None:
    """Samples, reconstructions, and the latent map of a model with two variables."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    def tile(rows: np.ndarray, across: int) -> np.ndarray:
        down = len(rows) // across
        grid = rows[: down * across].reshape(down, across, 28, 28)
        return grid.transpose(0, 2, 1, 3).reshape(down * 28, across * 28)

    folder.mkdir(parents=True, exist_ok=True)
    figure, axes = plt.subplots(1, 3, figsize=(16, 5.4), layout="constrained")
    model = vae._model()
    import torch

    z = model.prior.sample(100, torch.Generator().manual_seed(0))[:, vae._latent_order]
    axes[0].imshow(tile(vae.inverse_transform(z.numpy()), 10), cmap="gray_r")
    axes[0].set_title("means of samples")
    some = test[:50]
    pairs = np.stack([some.reshape(5, 10, -1), vae.reconstruct(some).reshape(5, 10, -1)], 1)
    axes[1].imshow(tile(pairs.reshape(100, -1), 10), cmap="gray_r")
    axes[1].set_title("test images, reconstructions below")
    Z = flat.transform(test[:3000])
    points = axes[2].scatter(*Z.T, c=labels[: len(Z)], cmap="tab10", s=4)
    figure.colorbar(points, ax=axes[2], label="digit")
    axes[2].set(title="two latent variables", xlabel="first", ylabel="second")
    for ax in axes[:2]:
        ax.set_axis_off()
    figure.savefig(folder / "vae_mnist.png", dpi=80)


def main() -> None:
    args = parse(
        __doc__,
        ("--epochs", {"type": int, "default": 300}),
        ("--state", {"help": "file of the model, to go on with"}),
        ("--minutes", {"type": float, "default": np.inf}),
        ("--plots", {"help": "folder of pictures"}),
    )
    end = time.perf_counter() + 60 * args.minutes
    with load(args.data_dir, "images/mnist.npz") as data:
        grey = data["X_train"].reshape(-1, 784).astype(np.float32) / 255
        grey_test = data["X_test"].reshape(-1, 784).astype(np.float32) / 255
        labels = data["y_test"]
    epochs, points = args.epochs, N_FEW
    if args.quick:
        grey, grey_test, epochs, points = grey[:5000], grey_test[:500], 3, 256
    state = None if args.state is None else Path(args.state)
    found = train(grey, 50, epochs, state, end)
    if found["epoch"] < epochs:
        print(f"Stopped after {found['epoch']} of {epochs} epochs; the same command goes on.")
        return
    vae = found["vae"]
    constant = Constant(draw(grey, 1, 0), vae)
    test = draw(grey_test, 0)
    rows = [
        {"test images": "drawn", **likelihood(vae, constant, test, points)},
        {
            "test images": "cut at one half",
            **likelihood(vae, constant, (grey_test > 0.5).astype(np.float32), points),
        },
    ]
    table(rows, 2)
    if args.plots:
        flat_state = None if state is None else state.with_suffix(".flat")
        flat = train(grey, 2, max(2, epochs // 5), flat_state, np.inf)["vae"]
        pictures(Path(args.plots), vae, flat, test, labels)
    print(f"{found['seconds'] / epochs:.1f} CPU seconds per epoch")
    finish(
        "vae_mnist",
        {
            "epochs": epochs,
            "cpu_seconds_per_epoch": rounded(found["seconds"] / epochs, 1),
            **{
                row["test images"]: {k: rounded(v) for k, v in row.items() if k != "test images"}
                for row in rows
            },
        },
    )


if __name__ == "__main__":
    main()
