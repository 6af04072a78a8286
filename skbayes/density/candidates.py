"""The models that `fit` tries, and the choice among them by held-out density."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch

from skbayes.density.columns import count_moments, shares
from skbayes.density.importance import chunks, log_density, normal_points
from skbayes.density.linear_start import MOST_LINEAR, choose_linear, start_linear, start_rates
from skbayes.density.model import VAE, Architecture
from skbayes.density.objectives import OBJECTIVES, Objective
from skbayes.density.options import check_image
from skbayes.density.problem import COMPARE_ROWS, Problem
from skbayes.density.training import (
    HELD_OUT_POINTS,
    Rows,
    Schedule,
    Stepper,
    Trained,
    replay,
    train,
)
from skbayes.validation import check_hidden_layer_sizes

MOST_DEEP = 10
DEFAULT_STEPS = 4000
REFIT_BELOW = 2000
FEWEST_FOR_DEEP = 1000
"""Training rows from which the deep path alone is tried: with fewer its decoded noise can fail far
from the rows, and too few rows are held out to show it."""
COMPARE_POINTS = 256
STREAM_ROWS = 200
"""Rows of each pass that the density is computed on."""

MOST_EVALUATION = 0.2
"""Share of the time of training that its evaluations take at most, about."""


class Candidate(NamedTuple):
    """A trained model, and how it did."""

    name: str
    spec: Architecture
    weights: dict[str, np.ndarray]
    seed: int
    score: float
    values: np.ndarray
    scores: dict[str, float]
    loss_curve: list[float]
    validation_curve: list[float]
    n_steps: int
    path: list[tuple[float, int]]
    messages: list[str]
    history: list[dict[str, Any]] | None = None
    """What skorch callbacks saw."""


def plan(estimator, problem: Problem) -> dict[str, Architecture]:
    """The architectures to try, by name."""
    e, layout = estimator, problem.columns.layout
    hidden = check_hidden_layer_sizes(e.hidden_layer_sizes)
    image = None if e.image_shape is None else check_image(e)
    if image is not None and layout.n_inputs != math.prod(image):
        raise ValueError(
            f"image_shape={e.image_shape!r} has {math.prod(image)} entries, but {layout.n_inputs} "
            "columns of X are not constant or categorical; use standardize and noise on images "
            "without constant pixels, or the multilayer perceptron."
        )
    has_density = OBJECTIVES[e.objective].has_density
    # without a density no noise is trained; that of each column is set when training is done
    noise = e.noise if has_density or e.noise != "per_row" else "per_feature"
    real = layout.n_real
    prior = e.latent_prior
    base = Architecture(
        layout,
        e.latent_dim or min(real or layout.n_columns, MOST_DEEP),
        hidden,
        e.activation,
        noise,
        e.noise_floor,
        False,
        "normal" if prior == "auto" else prior,
        e.n_components,
        image,
        tuple(e.channels) if image is not None else (),
        e.n_weight_draws if e.decoder_weights == "normal" else 0,
    )
    wide = e.latent_dim or min(real, MOST_LINEAR)
    beside = replace(base, n_latent=wide, linear=True)
    if prior == "auto" and has_density:
        beside = replace(beside, prior="mixture")
    if not hidden and image is None:
        # the linear model: normal latent variables unless others are asked for
        return {"linear": replace(beside, prior=base.prior, n_latent=wide or base.n_latent)}
    deep = {"deep": base}
    if not real or e.linear_path is False or not has_density:
        return deep
    if image is not None and e.linear_path == "auto":
        return deep  # convolutions are there so that no map of all pixels is needed
    if e.linear_path is True:
        return {"deep with linear path": beside}
    out = {}
    closed = prior in ("auto", "normal") and e.decoder_weights == "point"
    closed = closed and e.beta == 1.0 and not e.free_bits  # it is that of the density
    if closed and layout.n_real == layout.n_columns:
        noise = e.noise if e.noise != "per_row" else "per_feature"
        out["linear"] = replace(base, hidden=(), linear=True, noise=noise, image_shape=None)
    out["deep with linear path"] = beside  # the simplest first
    if problem.split.n >= FEWEST_FOR_DEEP:
        out["deep"] = base
    return out


def fit_candidates(estimator, problem: Problem, seed: int, bar) -> Candidate:
    """Train all candidates and keep one, see `choose`."""
    found: list[Candidate] = []
    interrupted: list[str] = []
    specs = plan(estimator, problem)
    for number, (name, spec) in enumerate(specs.items()):
        seed_here = int(np.random.SeedSequence(seed, spawn_key=(number,)).generate_state(1)[0])
        closed = name == "linear" and len(specs) > 1
        try:
            one, stopped = _fit_one(estimator, problem, name, spec, seed_here, bar, closed)
        except KeyboardInterrupt:
            if not found:
                raise  # there is nothing to keep
            interrupted.append(f"The fit was interrupted before the model {name!r} was trained.")
            break
        found.append(one)
        if stopped:
            interrupted.append(
                f"The fit was interrupted after {one.n_steps} steps of the model {name!r}; the "
                "best until then is kept."
            )
            break
    best = choose(found, problem.compare_weight)
    wanted = estimator.refit is True
    wanted |= estimator.refit == "auto" and problem.X.shape[0] < REFIT_BELOW
    apart = len(problem.split.held_out) < problem.X.shape[0]
    if wanted and apart and not interrupted and not problem.on_disk:
        try:
            best = refit(estimator, problem, best, bar)
        except KeyboardInterrupt:
            interrupted.append(
                "The fit was interrupted while the chosen model was trained on all rows; the one "
                "without the held-out rows is kept."
            )
    scores = {one.name: one.score for one in found}
    return best._replace(scores=scores, messages=[*best.messages, *interrupted])


def _fit_one(
    estimator, problem: Problem, name: str, spec: Architecture, seed: int, bar, closed: bool
) -> tuple[Candidate, bool]:
    """A candidate, and whether its training was interrupted."""
    e = estimator
    V = problem.some_values()
    weight = problem.weights_of(problem.some_index())
    if closed:
        held = problem.held_out.double().cpu().numpy()
        held_weight = problem.weights_of(problem.split.held_out)
        spec = choose_linear(spec, V, weight, held, held_weight, e.latent_dim, e.noise)
    model = start(spec, V, weight, seed, problem)
    objective = make_objective(e, model, problem, seed)
    schedule = make_schedule(e, problem.split.n, spec, len(problem.held_out))
    history = None
    if closed:
        curve = [-problem.mean(compare(model, problem))]
        trained = Trained(model.to_numpy(), [], curve, curve[0], 0, False, [])
    else:
        trained, history = _train(e, problem, name, model, objective, schedule, seed, bar)
    values = compare(model, problem) if objective.by_density else np.array([-trained.best])
    score = problem.mean(values) if objective.by_density else -trained.best
    messages = []
    if not np.isfinite(score):
        messages.append(
            "The held-out bound is not finite: rows are too far from the model; look for values "
            "that are very large, or lower learning_rate."
        )
    if trained.falling:
        messages.append(
            f"max_epochs={schedule.max_epochs} ended the training while the held-out loss still "
            "fell; raise it (or learning_rate)."
        )
    candidate = Candidate(
        name,
        spec,
        fit_noise(model, objective, problem),
        seed,
        score,
        values,
        {},
        trained.loss_curve,
        trained.validation_curve,
        trained.n_steps,
        trained.path,
        messages,
        history,
    )
    return candidate, trained.interrupted


def fit_noise(model: VAE, objective: Objective, problem: Problem) -> dict[str, np.ndarray]:
    """Weights, with the noise of an objective that trains none: the held-out residual's."""
    spec = model.spec
    n_real = spec.layout.n_real
    if objective.has_density or not n_real:
        return model.to_numpy()
    total = torch.zeros(n_real, dtype=torch.float64)
    weight = problem.weights_of(problem.split.held_out)
    share = torch.as_tensor(shares(weight, len(problem.held_out)), dtype=torch.float64)
    with torch.no_grad():
        for rows in chunks(model, len(share), 1):
            v = problem.held_out[rows]
            residual = v[:, :n_real] - model.decoder(model.encode(v)[0])[:, :n_real]
            total += share[rows] @ residual.double().cpu() ** 2
        model.head.set_noise(total.mean()[None] if spec.noise == "shared" else total)
    return model.to_numpy()


def _train(e, problem: Problem, name: str, model, objective, schedule, seed: int, bar):
    """Train a model, with the progress bar and the callbacks; gives their history too."""
    listener = None
    if e.callbacks:
        from skbayes.density.listener import VAEListener

        listener = VAEListener(e, model, problem.X)

    def on_step(done: int, total: int, loss: float, held_out: float) -> None:
        bar(done, total, f"{name}, loss {loss:.4g}, held out {held_out:.4g}")
        if listener is not None:
            listener.step(loss, held_out)

    out = train(
        model,
        objective,
        Rows(problem.rows, problem.split.n, problem.train_weight),
        problem.held_out,
        schedule,
        seed,
        held_out_weight=problem.weights_of(problem.split.held_out),
        on_step=on_step,
    )
    if listener is None:
        return out, None
    listener.end()
    return out, e.history_


def refit(estimator, problem: Problem, found: Candidate, bar) -> Candidate:
    """Train the chosen model anew on all rows, held-out ones too, for as many steps."""
    V, weight = problem.columns.transform(problem.X), problem.weight
    model = start(found.spec, V, weight, found.seed, problem)
    if found.path:
        objective = make_objective(estimator, model, problem, found.seed)
        schedule = make_schedule(estimator, len(V), found.spec)
        rows = Rows(problem.any_rows, len(V), weight)

        def on_step(done: int, total: int, loss: float) -> None:
            bar(done, total, f"{found.name} on all rows, loss {loss:.4g}")

        replay(model, objective, rows, schedule, found.seed, found.path, on_step)
        return found._replace(weights=fit_noise(model, objective, problem))
    return found._replace(weights=model.to_numpy())


def one_pass(estimator, problem: Problem, seed: int, stream: dict | None):
    """One pass of `VAEDensityEstimator.partial_fit`.

    Returns
    -------
    candidate : Candidate
    stream : dict
        What the next pass goes on from.
    """
    specs = plan(estimator, problem)
    name = "deep with linear path" if "deep with linear path" in specs else list(specs)[-1]
    n = problem.split.n
    if stream is None:
        spec = specs[name]
        model = start(spec, problem.some_values(), None, seed, problem)
        stream = {"seed": seed, "seen": 0.0, "passes": 0, "adam": None, "before": 0}
    else:
        name, spec = estimator.candidate_, estimator._spec
        model = VAE.from_numpy(spec, estimator._weights)
        model = model.to(device=problem.device, dtype=problem.dtype)
    objective = make_objective(estimator, model, problem, seed)
    schedule = make_schedule(estimator, n, spec)
    if stream["before"]:  # the warm-up was in fit
        schedule = schedule._replace(warm_up=0)
    here = int(np.random.SeedSequence(seed, spawn_key=(9, stream["passes"])).generate_state(1)[0])
    stepper = Stepper(model, objective, Rows(problem.rows, n), schedule, here)
    stepper.total = n + stream["seen"]
    if stream["adam"] is not None:
        stepper.resume(stream["adam"])
    steps = math.ceil(n / stepper.batch)
    losses, messages = [], []
    try:
        for _ in range(steps):
            losses.append(stepper.step(estimator.learning_rate))
    except KeyboardInterrupt:
        messages.append(f"The pass was interrupted after {len(losses)} of {steps} steps.")
    loss = float(np.mean(losses)) if losses else math.nan
    density = objective.by_density
    values = compare(model, problem, STREAM_ROWS) if density else np.array([-loss])
    score = float(values.mean())
    stream = {
        **stream,
        "seen": stepper.total,
        "passes": stream["passes"] + 1,
        "adam": stepper.state(),
    }
    curve = [*getattr(estimator, "loss_curve_", []), loss]
    found = Candidate(
        name,
        spec,
        fit_noise(model, objective, problem),
        seed,
        score,
        values,
        {name: score},
        curve,
        [],
        stream["before"] + stepper.t,
        [],
        messages,
    )
    return found, stream


def start(spec: Architecture, V: np.ndarray, weight, seed: int, problem: Problem) -> VAE:
    """A model at its starting weights."""
    model = VAE(spec, seed)
    columns = problem.columns
    moments = count_moments(V, spec.layout, weight)
    with torch.no_grad():
        model.count_mean.copy_(torch.as_tensor(moments.mean))
        model.count_scale.copy_(torch.as_tensor(moments.scale))
        model.head.half_pitch.copy_(torch.as_tensor(columns.half_pitch))
    if spec.layout.n_real < spec.layout.n_columns:
        start_rates(model, V, weight)
    if model.encoder.linear is not None and spec.layout.n_real:
        start_linear(model, V, weight)
    rng = np.random.default_rng(seed)
    if weight is not None:
        V = V[rng.choice(len(V), len(V), p=weight / weight.sum())]
    with torch.no_grad():
        inputs = model.inputs(torch.as_tensor(V, dtype=torch.float32))
        mean, log_var = model.encode_inputs(inputs)
    # the best prior for the bound is the mixture of all q: it starts at draws from them
    eps = rng.standard_normal(mean.shape)
    z = mean.double().numpy() + np.exp(0.5 * log_var.double().numpy()) * eps
    model.prior.start(z, inputs.double().numpy(), seed % (1 << 31))
    return model.to(device=problem.device, dtype=problem.dtype)


def make_objective(e, model: VAE, problem: Problem, seed: int) -> Objective:
    """The objective with the estimator's settings."""
    n_points = e.n_points or (8 if e.objective == "iwae" else 1)
    objective = OBJECTIVES[e.objective](
        n_points=n_points,
        beta=e.beta,
        free_bits=e.free_bits,
        strength=e.penalty,
        robustness=e.robustness,
    )
    objective.prepare(model, e.kernel, seed, problem.device, problem.dtype)
    return objective


def make_schedule(e, n: int, spec: Architecture, n_held_out: int = 0) -> Schedule:
    """How long and how fast to train."""
    batch = min(e.batch_size, n)
    epochs = e.max_epochs or max(1, math.ceil(DEFAULT_STEPS * batch / n))
    n_steps = math.ceil(n / batch) * epochs
    # a step takes about three forward passes, an evaluation one for each of its points
    cost = n_held_out * max(HELD_OUT_POINTS, e.n_points or 1) / (3 * batch)
    return Schedule(
        batch,
        epochs,
        e.learning_rate,
        0 if spec.linear else e.warm_up,
        e.patience,
        e.noise_prior,
        min(max(50, math.ceil(cost / MOST_EVALUATION)), max(1, n_steps // 4)),
    )


def compare(model: VAE, problem: Problem, n_rows: int = COMPARE_ROWS) -> np.ndarray:
    """Log density of the first held-out rows, in standardised units."""
    held = problem.held_out[:n_rows]
    points = normal_points(COMPARE_POINTS, model.n_noise, seed=1)
    eps = torch.as_tensor(points, dtype=problem.dtype, device=problem.device)[:, None]
    values = torch.cat([log_density(model, part, eps) for part in held.split(64)])
    return values.double().cpu().numpy()


def choose(found: list[Candidate], weight: np.ndarray | None) -> Candidate:
    """The simplest candidate, unless a later one is better by more than two standard errors.

    The difference is paired over the held-out rows. They also stopped the training of the deep
    models, which makes those look better than they are where rows are few.
    """
    best = found[0]
    for one in found[1:]:
        if len(one.values) < 2 or not np.isfinite(one.score + best.score):
            best = one if one.score > best.score else best
            continue
        gap = one.values - best.values
        mean = np.average(gap, weights=weight)
        variance = np.average((gap - mean) ** 2, weights=weight)
        count = len(gap) if weight is None else weight.sum() ** 2 / (weight**2).sum()
        if mean > 2.0 * np.sqrt(variance / max(count - 1, 1)):
            best = one
    return best
