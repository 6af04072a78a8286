"""A torch module as a network: against the perceptron, autograd and finite differences."""

import copy
import pickle

import numpy as np
import pytest
import torch
from modules import Branches, Conv, Small, Tied
from problems import F64, KINDS, finite_differences, make_likelihood, make_targets
from torch import nn
from torch.func import functional_call

from skbayes.inference import HMC, MAP, Streams
from skbayes.model import (
    HierarchicalPrior,
    Inputs,
    LogPosterior,
    MLPNetwork,
    ModuleNetwork,
    ModuleSource,
    NormalPrior,
    TensorInputs,
    module_network,
)

N, D = 17, 3
IMAGES = np.random.default_rng(3).normal(size=(13, 1, 6, 6))


def network_of(module, X, n_outputs=None, **options):
    params = options.pop("params", {})
    return ModuleNetwork(ModuleSource(module, params, X.shape[1:]), X, n_outputs, **options)


def perceptrons(kind, prior=None, hidden=5):
    """The same log posterior with both networks; theta is the same for both."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(N, D)), make_targets(kind, N, rng)
    targets = torch.as_tensor(y[None].copy(), **F64)
    weight = torch.as_tensor(rng.integers(0, 3, size=(1, N)), **F64)
    likelihood, n_outputs = make_likelihood(kind)
    prior = prior or NormalPrior(1.5, fan_in=True)
    mlp = MLPNetwork(D, (hidden,), n_outputs, "tanh")
    any_module = network_of(Small, X, params={"n_inputs": D, "n_outputs": n_outputs})
    first = LogPosterior(mlp, likelihood, prior.build(mlp), Inputs(X, scale=mlp.input_scale, **F64),
                         targets, weight)  # fmt: skip
    second = LogPosterior(any_module, likelihood, prior.build(any_module), TensorInputs(X, **F64),
                          targets, weight)  # fmt: skip
    return first, second


@pytest.mark.parametrize("prior", [NormalPrior(1.5, fan_in=True), HierarchicalPrior()])
@pytest.mark.parametrize("kind", KINDS)
def test_log_posterior_of_a_perceptron(kind, prior):
    first, second = perceptrons(kind, prior)
    assert first.n_params == second.n_params
    theta = torch.as_tensor(np.random.default_rng(1).normal(size=(3, first.n_params)))
    index = np.random.default_rng(2).integers(0, N, size=(3, 6))
    for cut in (lambda t: t, lambda t: t.minibatch(index), lambda t: t.rows(index[0])):
        value, grad = cut(first).value_and_grad(theta)
        found, by_theta = cut(second).value_and_grad(theta)
        np.testing.assert_allclose(found, value, rtol=1e-10)
        np.testing.assert_allclose(by_theta, grad, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(cut(second)(theta), cut(first)(theta), rtol=1e-10)


@pytest.mark.parametrize("method", [MAP(max_epochs=40), HMC(n_chains=2, n_warmup=10, n_draws=5,
                         max_leapfrog=4, init=None)])  # fmt: skip
def test_methods_take_the_same_way(method):
    first, second = perceptrons("categorical")
    n = method.chain_count()
    theta = torch.as_tensor(0.3 * np.random.default_rng(1).normal(size=(n, first.n_params)))
    expected, found = (method.run(t, theta.clone(), Streams(0, n)) for t in (first, second))
    np.testing.assert_allclose(found.draws, expected.draws, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("norm", [None, "group", "batch"])
@pytest.mark.parametrize("per_chain", [False, True])
def test_gradient_of_a_convolution(norm, per_chain):
    net = network_of(Conv, IMAGES, params={"norm": norm})
    likelihood, _ = make_likelihood("categorical")
    y = make_targets("categorical", len(IMAGES), np.random.default_rng(0))
    target = LogPosterior(net, likelihood, NormalPrior().build(net), TensorInputs(IMAGES, **F64),
                          torch.as_tensor(y[None].copy(), **F64))  # fmt: skip
    if per_chain:
        target = target.minibatch(np.random.default_rng(1).integers(0, 13, size=(2, 7)))
    theta = torch.as_tensor(np.random.default_rng(2).normal(size=(2, net.n_params)))
    grad = target.value_and_grad(theta)[1]
    np.testing.assert_allclose(grad, finite_differences(target, theta), rtol=1e-5, atol=1e-5)


def is_linear(module, name):
    return isinstance(dict(module.named_modules())[name.rpartition(".")[0]], nn.Linear)


def check_passes(net, X, chains=3, seed=1):
    """Forward and backward against the module itself, chain by chain."""
    rng = np.random.default_rng(seed)
    theta = torch.as_tensor(rng.normal(size=(chains, net.n_params)))
    inputs = TensorInputs(X, **F64)
    cotangent = torch.as_tensor(rng.normal(size=(chains, net.n_outputs, len(X))))
    covered = torch.zeros(chains, len(X))

    def pull(outputs, part, rows):
        covered[part, rows] += 1
        delta = cotangent[part, :, rows].clone()
        outputs.zero_()  # it may be written into
        return delta

    forward, grad = net.forward(theta, inputs), net.vjp(theta, inputs, pull)
    assert (covered == 1).all()
    for c in range(chains):
        module = net.to_module(theta[c].numpy()).requires_grad_(True)
        named = dict(module.named_parameters())
        outputs = module(torch.as_tensor(X))
        outputs = outputs.reshape(len(X), -1)
        np.testing.assert_allclose(forward[c], outputs.detach().T, rtol=1e-9, atol=1e-10)
        (outputs.T * cotangent[c]).sum().backward()
        parts = []
        for name, shape in net.parameters():
            part = named[name].grad
            if part is None:
                part = torch.zeros(shape)
            elif part.dim() == 2 and is_linear(module, name):
                part = part.T  # theta has it as the perceptron does
            parts.append(part)
        expected = torch.cat([part.reshape(-1) for part in parts])
        np.testing.assert_allclose(grad[c], expected, rtol=1e-8, atol=1e-9)


X4 = np.random.default_rng(4).normal(size=(11, 4))
CASES = {
    "conv": (Conv, IMAGES),
    "branches": (Branches, X4[:, :3]),
    "tied": (Tied, X4),
    "tied instance": (Tied(), X4),
    "lazy": (nn.LazyLinear(2), X4),
    "one column": (nn.Sequential(nn.Linear(4, 1), nn.Flatten(0)), X4),
    "attention": (
        nn.Sequential(
            nn.Unflatten(1, (2, 2)),
            nn.TransformerEncoderLayer(2, 1, 6, batch_first=True),
            nn.Flatten(),
            nn.Linear(4, 2),
        ),
        X4,
    ),
}


@pytest.mark.parametrize("elements", [1, 300, 1 << 21])
@pytest.mark.parametrize("name", CASES)
def test_passes(name, elements, monkeypatch):
    """In one call, in a loop over chains, and in small blocks of rows."""
    module, X = CASES[name]
    net = network_of(module, X[:8])
    assert net._vmaps == (name in ("conv", "lazy", "one column"))
    monkeypatch.setitem(module_network.BLOCK_ELEMENTS, "cpu", elements)
    monkeypatch.setattr(module_network, "VMAP_ELEMENTS", elements)
    check_passes(net, X)


def test_float32_is_near_float64():
    net = network_of(Conv, IMAGES, params={"norm": "batch"})
    theta = torch.as_tensor(np.random.default_rng(0).normal(size=(2, net.n_params)))
    results = []
    for dtype in (torch.float64, torch.float32):
        inputs = TensorInputs(IMAGES, dtype=dtype, device=torch.device("cpu"))
        ones = lambda out, chains, rows: torch.ones_like(out)  # noqa: E731
        cast = theta.to(dtype)
        results.append((net.forward(cast, inputs), net.vjp(cast, inputs, ones)))
        assert results[-1][0].dtype == dtype
    for exact, found in zip(*results, strict=True):
        np.testing.assert_allclose(found.double(), exact, rtol=1e-3, atol=1e-3)


# ------------------------------------------------------------------- parameters


def test_layers_cover_theta():
    module = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.Flatten(),
        nn.LayerNorm(6 * 25), nn.Linear(6 * 25, 1, bias=False)
    )  # fmt: skip
    net = network_of(module, np.zeros((2, 2, 6, 6)) + np.arange(2)[:, None, None, None])
    spans = [(layer.weight.stop - layer.weight.start, layer.bias.stop - layer.bias.start)
             for layer in net.layers]  # fmt: skip
    assert spans == [(72, 4), (0, 8), (48, 6), (0, 300), (150, 0)]
    assert [layer.fan_in for layer in net.layers] == [18, 1, 8, 1, 150]
    stops = [layer.bias.stop for layer in net.layers]
    assert [layer.weight.start for layer in net.layers] == [0, *stops[:-1]]
    assert stops[-1] == net.n_params == sum(p.numel() for p in module.parameters())
    scales = NormalPrior(3.0, fan_in=True).build(net).scales
    np.testing.assert_allclose(scales[:72], 3.0 / np.sqrt(18))
    np.testing.assert_allclose(scales[72:84], 3.0)  # biases and normalisation
    theta = torch.zeros(2, net.n_params, **F64)
    assert HierarchicalPrior().build(net).weights(theta, torch.zeros(2, 5, **F64)).shape[1] == 588


def test_fan_in_of_embeddings_and_recurrences():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.read = nn.Embedding(10, 4), nn.LSTM(4, 3, batch_first=True)
            self.out = nn.Linear(3, 2)

        def forward(self, x):
            return self.out(self.read(self.embed(x.long()))[0][:, -1])

    net = network_of(Words, np.ones((3, 5)))
    assert [layer.fan_in for layer in net.layers] == [1, 4, 3, 3]
    assert [layer.bias.stop - layer.bias.start for layer in net.layers] == [0, 0, 24, 2]


def test_tied_parameters_count_once_and_frozen_ones_stay():
    net = network_of(Tied, X4, seed=5)
    names = [name for name, _ in net.parameters()]
    assert "one.weight" in names and "two.weight" not in names
    assert not any(name.startswith("fixed") for name in names)
    modules = [net.to_module(w) for w in np.random.default_rng(0).normal(size=(2, net.n_params))]
    for name in ("fixed.weight", "shift"):  # the same for all, by the seed
        values = [m.state_dict()[name] for m in modules]
        assert torch.equal(*values) and values[0].abs().sum() > 0
    other = network_of(Tied, X4, seed=6).to_module(np.zeros(net.n_params))
    assert not torch.equal(other.shift, modules[0].shift)
    assert modules[0].one.weight is modules[0].two.weight
    assert not torch.equal(modules[0].one.weight, modules[1].one.weight)


def test_initial_weights_of_a_class():
    net = network_of(Conv, IMAGES)
    state = torch.get_rng_state()
    theta = net.initial(Streams(0, 3), **F64)
    assert torch.equal(torch.get_rng_state(), state)
    assert len(np.unique(theta.numpy().round(6), axis=0)) == 3
    np.testing.assert_array_equal(theta, net.initial(Streams(0, 3), **F64))
    np.testing.assert_array_equal(theta[1:], net.initial(Streams(0, 2, first=1), **F64))
    bound = 1 / np.sqrt(9)  # torch's own rule for the first layer
    first = theta[:, net.layers[0].weight]
    assert first.abs().max() <= bound and first.abs().max() > 0.7 * bound


def test_initial_weights_of_an_instance():
    module = Conv()
    before = copy.deepcopy(module.state_dict())
    net = network_of(module, IMAGES)
    theta = net.initial(Streams(0, 3), dtype=torch.float32, device=torch.device("cpu"))
    turn = {"out.weight": lambda p: p.T}  # as the perceptron has it
    own = torch.cat([turn.get(name, lambda p: p)(p.detach()).reshape(-1)
                     for name, p in module.named_parameters()])  # fmt: skip
    assert torch.equal(theta[0], own)
    assert not torch.allclose(theta[1], own) and not torch.allclose(theta[1], theta[2])
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    with torch.no_grad():
        module.out.bias += 100.0  # the network has its own copy
    assert torch.equal(net.initial(Streams(0, 1), torch.float32, torch.device("cpu"))[0], own)


def test_linear_models_are_known():
    assert network_of(nn.Linear(4, 2), X4).is_linear
    assert network_of(nn.Sequential(nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 2, 4), nn.Flatten()),
                      X4).is_linear  # fmt: skip
    assert not network_of(nn.Sequential(nn.Linear(4, 2), nn.Tanh()), X4).is_linear
    assert not network_of(nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 2)), X4).is_linear
    assert MLPNetwork(4, (), 2, "tanh").is_linear and not MLPNetwork(4, (1,), 2, "tanh").is_linear


@pytest.mark.parametrize("module", [Tied, Tied(), Conv(norm="batch")])
def test_pickle_holds_no_tensors(module):
    X = IMAGES if isinstance(module, Conv) else X4
    net = network_of(module, X)
    theta = torch.as_tensor(np.random.default_rng(0).normal(size=(2, net.n_params)))
    expected = net.forward(theta, TensorInputs(X, **F64))
    data = pickle.dumps(net)
    assert b"torch._utils" not in data and b"_rebuild" not in data
    np.testing.assert_array_equal(
        pickle.loads(data).forward(theta, TensorInputs(X, **F64)), expected
    )


def test_features_of_the_last_layer():
    net = network_of(Conv, IMAGES)
    theta = torch.as_tensor(np.random.default_rng(0).normal(size=(2, net.n_params)))
    inputs = TensorInputs(IMAGES, **F64)
    features = net.features(theta, inputs)
    ones = torch.cat([features, torch.ones_like(features[:, :1])], 1)
    joint = theta[:, net.layers[-1].joint].view(2, 9, 3)
    np.testing.assert_allclose(joint.mT @ ones, net.forward(theta, inputs), rtol=1e-10)
    for module in (nn.Sequential(nn.Linear(4, 2), nn.Tanh()), nn.Linear(4, 2, bias=False)):
        net = network_of(module, X4)
        with pytest.raises(ValueError, match="does not end in a torch.nn.Linear"):
            net.features(torch.ones(1, net.n_params, **F64), TensorInputs(X4, **F64))


# ---------------------------------------------------------- batch normalisation


def test_statistics_of_batch_normalisation(monkeypatch):
    """In any blocks they are what torch's own training pass sees, and give the same outputs."""
    net = network_of(Conv, IMAGES, params={"norm": "batch"})
    assert [name for name, _ in net.buffers()] == [
        f"{part}.{kind}" for part in ("norm", "last_norm") for kind in ("running_mean",
                                                                        "running_var")
    ]  # fmt: skip
    theta = torch.as_tensor(np.random.default_rng(0).normal(size=(3, net.n_params)))
    inputs = TensorInputs(IMAGES, **F64)
    forward = net.forward(theta, inputs)
    for elements in (1 << 21, 4 * net._per_row, 1):
        monkeypatch.setitem(module_network.BLOCK_ELEMENTS, "cpu", elements)
        found = net.statistics(theta, inputs)
        for c in range(3):
            module = Conv(norm="batch").double().train()
            named = net._named(theta[c : c + 1])
            for part in (module.norm, module.last_norm):
                part.momentum = 1.0
            functional_call(module, {k: v[0] for k, v in named.items()}, (torch.as_tensor(IMAGES),))
            state = module.state_dict()
            for part, count in (("norm", 13 * 16), ("last_norm", 13)):
                state[f"{part}.running_var"] *= (count - 1) / count  # torch divides by n - 1
            expected = torch.cat([state[name] for name, _ in net.buffers()])
            np.testing.assert_allclose(found[c], expected, rtol=1e-9, atol=1e-12)
        given = torch.cat([theta, found], 1)
        np.testing.assert_allclose(net.forward(given, inputs), forward, rtol=1e-8, atol=1e-9)
        np.testing.assert_allclose(net.forward(theta, inputs), forward, rtol=1e-8, atol=1e-9)
        # with statistics a row does not depend on the others
        few = net.forward(given, inputs.take(np.arange(3)))
        np.testing.assert_allclose(few, forward[:, :, :3], rtol=1e-8, atol=1e-9)
        assert net.blocks_have_all_rows(theta, inputs)
    module = net.to_module(given[1].numpy())
    np.testing.assert_allclose(module(torch.as_tensor(IMAGES)).detach().T, forward[1], rtol=1e-7)


def test_batch_normalisation_in_eval_mode_keeps_its_statistics():
    module = Conv(norm="batch")
    module.norm.running_mean += 3.0
    module.norm.eval()
    net = network_of(module, IMAGES)
    assert [name for name, _ in net.buffers()] == [
        "last_norm.running_mean",
        "last_norm.running_var",
    ]
    built = net.to_module(np.zeros(net.n_params + net.n_buffers))
    np.testing.assert_array_equal(built.norm.running_mean, module.norm.running_mean)


def test_dropout_is_off():
    net = network_of(Conv, IMAGES, params={"dropout": 0.5})
    theta = torch.as_tensor(np.random.default_rng(0).normal(size=(1, net.n_params)))
    inputs = TensorInputs(IMAGES, **F64)
    assert torch.equal(net.forward(theta, inputs), net.forward(theta, inputs))


# ------------------------------------------------------------------ wrong modules


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.randn(1)


class Pair(nn.Linear):
    def forward(self, x):
        return super().forward(x), 1


BAD = {
    "outputs": (nn.Linear(4, 2), "expected 3, found 2"),
    "softmax": (nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), "return logits"),
    "sigmoid": (nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), "return logits"),
    "frozen": (nn.Linear(4, 3).requires_grad_(False), "no parameters to infer"),
    "empty": (nn.Flatten(), "no parameters to infer"),
    "shape": (nn.Linear(5, 3), r"cannot be applied to rows of X, of shape \(8, 4\)"),
    "three axes": (nn.Sequential(nn.Linear(4, 3), nn.Unflatten(1, (1, 3))), "must return a tensor"),
    "tuple": (Pair(4, 3), "returns tuple"),
    "rows": (nn.Sequential(nn.Linear(4, 3), nn.Flatten(0)), "returns 24 rows for 8"),
    "noise": (Noisy(4, 3), "two answers"),
    "mixed rows": (
        nn.Sequential(nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), nn.Linear(4, 3)),
        "see each other",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_wrong_modules(name):
    module, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        network_of(module, X4[:8], 3, refuse="probabilities")


def test_a_softmax_of_one_column_is_refused():
    """It is always one: two classes take one logit, which ``n_outputs`` says to the class."""
    with pytest.raises(ValueError, match="return logits"):
        network_of(nn.Sequential(nn.Linear(4, 1), nn.Softmax(1)), X4, 1, refuse="probabilities")


def test_logits_are_not_refused():
    for end in (nn.Identity(), nn.LogSoftmax(1), nn.ReLU()):
        network_of(nn.Sequential(nn.Linear(4, 3), end), X4, 3, refuse="probabilities")
