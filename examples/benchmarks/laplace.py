"""Laplace approximation: against laplace-torch on the same weights, and how long both take.

    python examples/benchmarks/laplace.py [--quick]

The weights of a fitted network are copied into a torch module; both libraries then compute the
posterior around them, in float64, by the deterministic Gauss-Newton matrix, one thread, all rows
in one batch for laplace-torch (what it does fastest).

Agreement: largest relative difference of the variances of the functions (their covariances, where
there are several outputs) at held-out rows, and the difference of the log evidence, in nats and
relative to it. Bias convention of Kronecker factors: here weight and bias of a layer are one block
(a one is appended to its inputs); laplace-torch takes them as two. It is therefore given the same
network with the biases as weights of a constant input, which makes its blocks the same.
The full matrix is also compared with a Jacobian row by row from autograd.

Time: ``fit`` is curvature and factorisation at given weights, ``predict`` mean and covariance of
the functions at held-out rows. Each backend of laplace-torch that runs is timed, the module being
a plain ``torch.nn.Sequential``; the ratio is that of the fastest to here, each the median of
several runs in turn.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import torch
from _common import finish, installed, parse, table

from skbayes.model import (
    Bernoulli,
    Categorical,
    Inputs,
    LogPosterior,
    MLPNetwork,
    Normal,
    NormalPrior,
)
from skbayes.model.covariance import block_rows
from skbayes.model.tangent import in_blocks, tangent

# laplace-torch's module has the name of this script, which would be found first
sys.path = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]

CPU = torch.device("cpu")
STRUCTURES = {
    "full": ("all", "full"),
    "kron": ("all", "kron"),
    "diag": ("all", "diag"),
    "last layer full": ("last_layer", "full"),
    "last layer kron": ("last_layer", "kron"),
    "last layer diag": ("last_layer", "diag"),
}
SCALE, NOISE = 0.7, 0.4


class WithOne(torch.nn.Module):
    """Append a one to every row."""

    def forward(self, x):
        return torch.cat([x, torch.ones_like(x[:, :1])], 1)


class Case:
    """A network, its data, and weights near a mode."""

    def __init__(self, task: str, n: int, d: int, sizes: tuple[int, ...], seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.task, self.n = task, n
        k = {"regression": 1, "two outputs": 2, "binary": 1, "ten classes": 10}[task]
        X = rng.normal(size=(2 * n, d))
        f = np.stack([np.sin(X @ rng.normal(size=d)) for _ in range(k)])
        if task == "binary":
            self.y, self.likelihood = (f[:, :n] > 0).astype(float), Bernoulli()
        elif task == "ten classes":
            self.y = (np.arange(10)[:, None] == f[:, :n].argmax(0)).astype(float)
            self.likelihood = Categorical()
        else:
            self.y = f[:, :n] + NOISE * rng.normal(size=(k, n))
            self.likelihood = Normal(k, np.full(k, NOISE), np.ones(k))
        self.X, self.held = X[:n], X[n:]
        self.network = MLPNetwork(d, sizes, k, "tanh")
        self.prior = NormalPrior(SCALE).build(self.network)
        kw = {"dtype": torch.float64, "device": CPU, "scale": self.network.input_scale}
        self.inputs, self.held_inputs = Inputs(self.X, **kw), Inputs(self.held, **kw)
        self.log_posterior = LogPosterior(
            self.network, self.likelihood, self.prior, self.inputs, torch.as_tensor(self.y[None])
        )
        theta = torch.as_tensor(0.5 * rng.normal(size=(1, self.network.n_params)))
        theta /= np.sqrt(max(sizes, default=1))
        optimiser = torch.optim.Adam([theta], lr=0.02)  # near a mode is near enough
        for _ in range(100):
            theta.grad = -self.log_posterior.grad(theta)
            optimiser.step()
        self.theta = theta

    # ------------------------------------------------------------------ here

    def fit(self, subset: str, hessian: str):
        """Posterior of the weights, and log evidence."""
        last = subset == "last_layer"
        curvature = self.log_posterior.gauss_newton(self.theta[0], hessian, last)
        d = curvature.n_params
        covariance = curvature.covariance(torch.full((d,), SCALE**-2.0, dtype=torch.float64))
        moving = self.theta[0, curvature.moving]
        log_prior = -0.5 * float((moving**2).sum()) / SCALE**2 - d * np.log(SCALE)
        value = float(self.log_posterior.log_likelihood(self.theta)[0])
        return covariance, value + log_prior - 0.5 * covariance.log_det

    def predict(self, covariance, subset: str, hessian: str):
        """Outputs (n, k) and their covariances (n, k, k) at the held-out rows."""
        last = subset == "last_layer"
        means, covs = [], []
        size = block_rows(self.network, hessian == "full")
        for _, part in in_blocks(self.held_inputs, size):
            linear = tangent(self.network, self.theta[0], part, last)
            means.append(linear.outputs.T)
            covs.append(covariance.of_functions(linear).permute(2, 0, 1))
        return torch.cat(means), torch.cat(covs)

    def brute_force(self):
        """Covariance (n, k, k) by a Jacobian of autograd for every row, and a plain inverse."""
        module = self.network.to_module(self.theta[0].numpy())
        named = dict(module.named_parameters())

        def row(params, x):
            return torch.func.functional_call(module, params, (x[None],))[0]

        jacobian = torch.func.vmap(torch.func.jacrev(row), (None, 0))

        def matrix(X):
            parts = jacobian(named, torch.as_tensor(X))
            return torch.cat([parts[name].flatten(2) for name in named], 2).detach()

        J, f = matrix(self.X), module(torch.as_tensor(self.X)).detach()
        if self.task == "binary":
            information = (f.sigmoid() * (1 - f.sigmoid()))[:, :, None]
        elif self.task == "ten classes":
            p = f.softmax(1)
            information = torch.diag_embed(p) - p[:, :, None] * p[:, None]
        else:
            information = torch.eye(f.shape[1], dtype=f.dtype).expand(len(f), -1, -1) / NOISE**2
        H = torch.einsum("ncp,nck,nkq->pq", J, information, J)
        cov = torch.linalg.inv(H + torch.eye(len(H), dtype=H.dtype) / SCALE**2)
        held = matrix(self.held)
        return torch.einsum("ncp,pq,nkq->nck", held, cov, held)

    # ----------------------------------------------------------------- peer

    def module(self, joint_bias: bool) -> torch.nn.Module:
        """The network for laplace-torch; with ``joint_bias`` biases are weights of a one."""
        plain = self.network.to_module(self.theta[0].numpy())
        if not joint_bias:
            return plain
        parts: list[torch.nn.Module] = []
        for part in plain:
            if isinstance(part, torch.nn.Linear):
                linear = torch.nn.Linear(part.in_features + 1, part.out_features, bias=False)
                linear = linear.double()
                with torch.no_grad():
                    linear.weight.copy_(torch.cat([part.weight, part.bias[:, None]], 1))
                parts += [WithOne(), linear]
            else:
                parts.append(part)
        return torch.nn.Sequential(*parts)

    def peer(self, module, subset: str, hessian: str, backend):
        """A fitted approximation of laplace-torch."""
        from laplace import Laplace

        kind = "classification" if self.task in ("binary", "ten classes") else "regression"
        y = torch.as_tensor(self.y.T)
        if self.task == "ten classes":
            y = y.argmax(1)
        more = {"sigma_noise": NOISE} if kind == "regression" else {}
        found = Laplace(
            module,
            kind,
            subset_of_weights=subset,
            hessian_structure=hessian,
            prior_precision=torch.tensor(SCALE**-2.0, dtype=torch.float64),
            backend=backend,
            **more,
        )
        data = torch.utils.data.TensorDataset(torch.as_tensor(self.X), y)
        found.fit(torch.utils.data.DataLoader(data, batch_size=self.n))
        return found


def backends() -> dict:
    """Those of laplace-torch with a deterministic Gauss-Newton matrix that are installed."""
    found = {}
    import laplace.curvature

    for name in ("CurvlinopsGGN", "AsdlGGN", "BackPackGGN"):
        if hasattr(laplace.curvature, name):
            found[name] = getattr(laplace.curvature, name)
    return found


def agreement(quick: bool) -> list[dict]:
    """Variances and evidence of both on the same weights."""
    rows = []
    peers = backends()
    for task in ("regression", "two outputs", "binary", "ten classes"):
        case = Case(task, 100, 4, (10, 8))
        brute = case.brute_force()
        for name, (subset, hessian) in STRUCTURES.items():
            covariance, evidence = case.fit(subset, hessian)
            cov = case.predict(covariance, subset, hessian)[1]
            row = {
                "task": task,
                "structure": name,
                "backend": "",
                "variance": np.nan,
                "evidence": np.nan,
                "evidence / own": np.nan,
                "brute force": np.nan,
            }
            if name == "full":
                row["brute force"] = difference(cov, brute)
            if task != "binary":  # one logit is not among what laplace-torch takes
                backend = peers["CurvlinopsGGN"]
                peer = case.peer(case.module(hessian == "kron"), subset, hessian, backend)
                theirs = peer._glm_predictive_distribution(torch.as_tensor(case.held))[1]
                row["backend"] = "CurvlinopsGGN"
                row["variance"] = difference(cov, theirs.detach())
                gap = abs(float(peer.log_marginal_likelihood()) - evidence)
                row["evidence"], row["evidence / own"] = gap, gap / abs(evidence)
            rows.append(row)
    table([{k: f"{v:.1e}" if isinstance(v, float) else v for k, v in r.items()} for r in rows])
    print()
    return [{k: None if v != v else v for k, v in row.items()} for row in rows]


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest difference of covariances (n, k, k), over the root of the variances' product."""
    deviation = expected.diagonal(dim1=1, dim2=2).sqrt()
    return float(((found - expected) / (deviation[:, :, None] * deviation[:, None])).abs().max())


def timing(quick: bool) -> list[dict]:
    """Seconds of fit and predict, of the fastest backend and here."""
    rows = []
    cases = [("regression", 500, 8, (50,)), ("ten classes", 500, 16, (32,))]
    if not quick:
        cases += [("regression", 1000, 8, (30, 20))]
    for task, n, d, sizes in cases:
        case = Case(task, n, d, sizes)
        X = torch.as_tensor(case.held)
        for name, (subset, hessian) in STRUCTURES.items():

            def here_fit(case=case, subset=subset, hessian=hessian):
                return case.fit(subset, hessian)

            def here_predict(found, case=case, subset=subset, hessian=hessian):
                return case.predict(found[0], subset, hessian)

            def theirs_predict(found, X=X):
                return found._glm_predictive_distribution(X)

            fit = {"here": here_fit}
            predict = {"here": here_predict}
            for key, backend in backends().items():

                def theirs_fit(case=case, subset=subset, hessian=hessian, b=backend):
                    found = case.peer(case.module(False), subset, hessian, b)
                    found.log_marginal_likelihood()  # factorises
                    return found

                fit[key], predict[key] = theirs_fit, theirs_predict
            times = {key: [[], []] for key in fit}
            for turn in range(2 if quick else 4):  # the first is a warm-up
                for key in list(fit):
                    try:
                        start = time.process_time()
                        found = fit[key]()
                        middle = time.process_time()
                        predict[key](found)
                        end = time.process_time()
                    except Exception as error:  # what a backend does not do
                        if turn == 0:
                            print(f"{task}, {name}: no {key}: {str(error)[:60]!r}")
                        del fit[key], times[key]
                        continue
                    if turn:
                        times[key][0].append(middle - start)
                        times[key][1].append(end - middle)
            medians = {key: [statistics.median(part) for part in t] for key, t in times.items()}
            own = medians.pop("here")
            shape = "-".join(map(str, (d, *sizes, case.network.n_outputs)))
            row = {"task": task, "n": n, "network": shape, "structure": name}
            for i, step in enumerate(("fit", "predict")):
                best = min(medians, key=lambda key, i=i: medians[key][i])
                row[f"{step} ms"] = 1e3 * own[i]
                row[f"{step} peer ms"] = 1e3 * medians[best][i]
                row[f"{step} ratio"] = medians[best][i] / own[i]
                row[f"{step} backend"] = best
            rows.append(row)
    table(rows, 2)
    return rows


def main() -> None:
    """Compare and time."""
    arguments = parse(__doc__)
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    warnings.filterwarnings("ignore")
    if not installed("laplace"):
        return
    figures = {"agreement": agreement(arguments.quick), "time": timing(arguments.quick)}
    finish("laplace", figures, ("laplace-torch",))


if __name__ == "__main__":
    main()
