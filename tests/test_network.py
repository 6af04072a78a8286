"""The hand-written passes of the network against torch's autograd, in float64."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from problems import F64

from skbayes.inference import Streams
from skbayes.model import Inputs, MLPNetwork, network
from skbayes.model.activations import ACTIVATIONS

N, D, CHAINS, BATCH = 23, 4, 3, 11
HIDDEN = {
    "linear": (),
    "one": (7,),
    "two": (7, 5),
    "three": (4, 3, 6),
    "ones": (1, 1),
    "neck": (6, 1, 5),
}
INPUTS = ("dense", "sparse", "batch", "sparse batch", "shared batch")
EVERY_ACTIVATION = pytest.mark.parametrize("activation", ACTIVATIONS)


def make_inputs(kind, net, rng, dtype=torch.float64):
    """Inputs of a kind, and the rows (n, d) of every chain."""
    X = rng.normal(size=(N, D))
    if "sparse" in kind:
        X[rng.random(X.shape) < 0.5] = 0.0
    kw = {**F64, "dtype": dtype, "scale": net.input_scale}
    inputs = Inputs(sp.csr_matrix(X) if "sparse" in kind else X, **kw)
    if "batch" not in kind:
        return inputs, [X] * CHAINS
    index = rng.integers(0, N, size=(CHAINS, BATCH))
    if kind == "shared batch":
        return inputs.take(index[0]), [X[index[0]]] * CHAINS
    return inputs.take(index), [X[rows] for rows in index]


def reference(net, theta, rows, cotangent):
    """Outputs (n_outputs, n) and the gradient (n_params,) of one chain by autograd."""
    module = net.to_module(theta.numpy())
    outputs = module(torch.as_tensor(rows)).T
    (outputs * cotangent).sum().backward()
    grad = [p.grad.T if p.dim() == 2 else p.grad for p in module.parameters()]
    return outputs.detach(), torch.cat([part.reshape(-1) for part in grad])


def check(activation, hidden, n_outputs, kind, repeats=1):
    rng = np.random.default_rng(0)
    net = MLPNetwork(D, hidden, n_outputs, activation)
    inputs, rows = make_inputs(kind, net, rng)
    for _ in range(repeats):
        theta = torch.as_tensor(rng.normal(size=(CHAINS, net.n_params)))
        cotangent = torch.as_tensor(rng.normal(size=(CHAINS, n_outputs, inputs.n)))
        seen = []

        def pull(outputs, chains, part, cotangent=cotangent, seen=seen):
            seen.append((chains, part, outputs.clone()))
            return cotangent[chains, :, part].contiguous()

        forward = net.forward(theta, inputs)
        grad = net.vjp(theta, inputs, pull).clone()
        for c in range(CHAINS):
            outputs, expected = reference(net, theta[c], rows[c], cotangent[c])
            np.testing.assert_allclose(forward[c], outputs, rtol=1e-10, atol=1e-11)
            np.testing.assert_allclose(grad[c], expected, rtol=1e-9, atol=1e-10)
        # the blocks cover every chain and row once, and show the outputs themselves
        covered = torch.zeros(CHAINS, inputs.n)
        for chains, part, outputs in seen:
            covered[chains, part] += 1
            np.testing.assert_allclose(outputs, forward[chains, :, part], rtol=1e-10, atol=1e-11)
        assert (covered == 1).all()
    return len(seen)


@EVERY_ACTIVATION
@pytest.mark.parametrize("hidden", HIDDEN)
def test_passes(activation, hidden):
    for n_outputs in (1, 3):
        for kind in INPUTS:
            check(activation, HIDDEN[hidden], n_outputs, kind)


@pytest.mark.parametrize("elements", [1, 40, 160])
@pytest.mark.parametrize("kind", INPUTS)
def test_passes_in_small_blocks(monkeypatch, elements, kind):
    """Rows are cut where there are too many of them, the gradient is then summed over blocks."""
    monkeypatch.setitem(network.BLOCK_ELEMENTS, "cpu", elements)
    for hidden in HIDDEN.values():
        for activation in ("tanh", "gelu"):
            for n_outputs in (1, 3):
                n_blocks = check(activation, hidden, n_outputs, kind)
                assert n_blocks > 1 or elements > 1


def test_buffers_of_one_call_do_not_leak_into_the_next():
    check("silu", (7, 5), 1, "dense", repeats=3)


def test_plans_of_many_sizes():
    """Numbers of chains and rows may change from call to call."""
    rng = np.random.default_rng(0)
    net = MLPNetwork(D, (5,), 2, "tanh")
    for n in (3, 9, 1, 4, 5, 6, 7, 8, 10, 11, 12, 3):
        for n_chains in (1, 4):
            inputs = Inputs(rng.normal(size=(n, D)), scale=net.input_scale, **F64)
            theta = torch.as_tensor(rng.normal(size=(n_chains, net.n_params)))
            found = net.forward(theta, inputs)
            alone = [net.forward(theta[c : c + 1], inputs)[0] for c in range(n_chains)]
            np.testing.assert_allclose(found, torch.stack(alone), rtol=1e-12)


@EVERY_ACTIVATION
def test_large_values_stay_finite(activation):
    net = MLPNetwork(D, (5,), 1, activation)
    inputs = Inputs(
        1e3 * np.random.default_rng(0).normal(size=(N, D)), scale=net.input_scale, **F64
    )
    theta = torch.full((1, net.n_params), 30.0, **F64)
    assert torch.isfinite(net.forward(theta, inputs)).all()
    grad = net.vjp(theta, inputs, lambda outputs, chains, rows: torch.ones_like(outputs))
    assert torch.isfinite(grad).all()


@EVERY_ACTIVATION
def test_float32_is_near_float64(activation):
    rng = np.random.default_rng(0)
    net = MLPNetwork(D, (7, 5), 2, activation)
    theta = torch.as_tensor(rng.normal(size=(CHAINS, net.n_params)))
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs, _ = make_inputs("dense", net, np.random.default_rng(1), dtype)
        outputs = net.forward(theta.to(dtype), inputs).double()
        ones = lambda out, chains, rows: torch.ones_like(out)  # noqa: E731
        results.append((outputs, net.vjp(theta.to(dtype), inputs, ones).double()))
    for exact, found in zip(*results, strict=True):
        np.testing.assert_allclose(found, exact, rtol=1e-4, atol=1e-4)


def test_layout_is_that_of_scikit_learn():
    """Weights (fan_in, fan_out), then biases, as in ``coefs_`` and ``intercepts_``."""
    from sklearn.neural_network import MLPRegressor

    rng = np.random.default_rng(0)
    X = rng.normal(size=(N, D))
    model = MLPRegressor(hidden_layer_sizes=(5, 3), activation="tanh", max_iter=1, random_state=0)
    with pytest.warns(UserWarning):
        model.fit(X, rng.normal(size=(N, 2)))
    parts = []
    for weight, bias in zip(model.coefs_, model.intercepts_, strict=True):
        parts += [weight.ravel(), bias]
    net = MLPNetwork(D, (5, 3), 2, "tanh")
    theta = torch.as_tensor(np.concatenate(parts))[None]
    outputs = net.forward(theta, Inputs(X, scale=net.input_scale, **F64))[0].T
    np.testing.assert_allclose(outputs, model.predict(X), rtol=1e-10)
    assert [shape for _, shape in net.parameters()] == [
        (4, 5), (5,), (5, 3), (3,), (3, 2), (2,),
    ]  # fmt: skip


def test_initial_weights():
    net = MLPNetwork(100, (80,), 1, "relu")
    theta = net.initial(Streams(0, 4), **F64).numpy()
    layer = net.layers[0]
    variance = 2.0 / (100 + 80)  # Glorot
    values = theta[:, layer.weight]
    assert abs((values**2).mean() / variance - 1) < 4 * np.sqrt(2 / values.size)
    assert (theta[:, layer.bias] == 0).all()
    assert not np.allclose(theta[0], theta[1])


def test_pickle_leaves_buffers_behind():
    net = MLPNetwork(D, (7,), 1, "tanh")
    inputs = Inputs(np.zeros((5000, D)), scale=net.input_scale, **F64)
    theta = torch.ones(2, net.n_params, **F64)
    expected = net.forward(theta, inputs)
    data = pickle.dumps(net)
    assert len(data) < 5000
    np.testing.assert_array_equal(pickle.loads(data).forward(theta, inputs), expected)


def test_to_module_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    MLPNetwork(D, (7,), 1, "tanh").to_module(np.zeros(43))
    assert torch.equal(torch.get_rng_state(), state)
