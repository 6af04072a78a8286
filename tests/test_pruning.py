"""Masks, bits and compression by hand; smaller and sparse networks against the pruned ones."""

import io
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from skbayes.layers.bits import bit_precision, compression_ratio, fraction_bits, round_to_bits
from skbayes.layers.compact import Select, compact
from skbayes.layers.pruning import (
    apply_masks,
    bias_masks,
    group_masks,
    local_masks,
    sparsity,
)
from skbayes.layers.signal_to_noise import signal_to_noise_masks
from skbayes.layers.sparse import SparseNetwork


class LeNet(nn.Module):
    """LeNet with functions in its forward pass, small."""

    def __init__(self, padding=0, style="size"):
        super().__init__()
        self.style = style
        side = ((12 + 2 * padding - 2) // 2 - 2) // 2
        self.conv1 = nn.Conv2d(1, 8, 3, padding=padding)
        self.conv2 = nn.Conv2d(8, 12, 3)
        self.fc1 = nn.Linear(12 * side**2, 30)
        self.fc2 = nn.Linear(30, 4)

    def forward(self, x):
        act = torch.sigmoid if self.style == "size" else F.relu
        x = F.max_pool2d(act(self.conv1(x)), 2)
        x = F.dropout(F.max_pool2d(torch.tanh(self.conv2(x)), 2), training=self.training)
        if self.style == "columns":
            x = x.view(-1, self.fc1.in_features)
        else:
            x = x.view(x.size(0) if self.style == "size" else x.shape[0], -1)
        return F.log_softmax(self.fc2(F.relu(self.fc1(x))), dim=1)


class Residual(nn.Module):
    """A sum and a layer normalisation, across which no unit can go."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d = (
            nn.Linear(*s) for s in ((20, 15), (15, 30), (30, 15), (15, 3))
        )
        self.norm = nn.LayerNorm(15)

    def forward(self, x):
        h = torch.relu(self.a(x))
        return self.d(h + self.c(torch.tanh(self.b(self.norm(h)))))


def mlp(act=nn.ReLU):
    return nn.Sequential(
        nn.Linear(30, 40), act(), nn.Dropout(0.5), nn.Linear(40, 20), act(), nn.Linear(20, 3)
    )


NETWORKS = {
    "mlp": (mlp, (30,)),
    "mlp-sigmoid": (lambda: mlp(nn.Sigmoid), (30,)),
    "images": (lambda: nn.Sequential(nn.Flatten(), *mlp(nn.Tanh)), (5, 6)),
    "lenet": (LeNet, (1, 12, 12)),
    "lenet-padded": (lambda: LeNet(2), (1, 12, 12)),
    "lenet-view": (lambda: LeNet(1, "columns"), (1, 12, 12)),
    "lenet-shape": (lambda: LeNet(1, "shape"), (1, 12, 12)),
    "residual": (Residual, (20,)),
    "norms": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 10, 3, padding=1),
            nn.BatchNorm2d(10),
            nn.ReLU(),
            nn.AvgPool2d(2, padding=1),
            nn.Conv2d(10, 12, 3, padding="same", padding_mode="circular", bias=False),
            nn.Sigmoid(),
            nn.Conv2d(12, 10, 3, bias=False),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.BatchNorm1d(40),
            nn.ReLU(),
            nn.Linear(40, 5),
            nn.Softmax(1),
        ),
        (3, 13, 13),
    ),
    "conv1d": (
        lambda: nn.Sequential(
            nn.Conv1d(2, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 4)
        ),
        (2, 20),
    ),
    "grouped": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU(), nn.Flatten(),
            nn.Linear(32, 4),
        ),
        (2, 6, 6),
    ),
}  # fmt: skip


def pruned(make, share, seed, dtype=torch.float32):
    """A network with a share of its weights, and normalisations that do something."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = make().to(dtype).eval()
        for module in net.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
        masks = {n: torch.rand(p.shape).numpy() < share for n, p in net.named_parameters()
                 if p.dim() > 1}  # fmt: skip
    return apply_masks(net, masks)


def rows(shape, n=6, dtype=torch.float32, seed=0):
    return torch.as_tensor(np.random.default_rng(seed).normal(size=(n, *shape)), dtype=dtype)


def n_entries(net):
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize("share", [0.0, 0.03, 0.3])
@pytest.mark.parametrize("name", NETWORKS)
def test_smaller_network_predicts_the_same(name, share):
    make, shape = NETWORKS[name]
    for seed, dtype, tolerance in ((0, torch.float32, 1e-6), (1, torch.float64, 1e-12)):
        net, x = pruned(make, share, seed, dtype), rows(shape, dtype=dtype)
        before = [p.clone() for p in net.parameters()]
        small = compact(net)
        with torch.no_grad():
            torch.testing.assert_close(small(x), net(x), rtol=tolerance, atol=tolerance)
        assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))
        assert n_entries(small) < n_entries(net) or share == 0.3
        again = pickle.loads(pickle.dumps(small))
        with torch.no_grad():
            assert torch.equal(again(x), small(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("whole_units", [False, True])
def test_smaller_network_can_be_pruned_again(name, whole_units):
    make, shape = NETWORKS[name]
    small, x = compact(pruned(make, 0.3, 0), whole_units), rows(shape)
    with torch.no_grad():
        torch.testing.assert_close(small(x), pruned(make, 0.3, 0)(x), rtol=1e-6, atol=1e-6)
        for layer in small.modules():
            if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d)):
                layer.weight[:, ::2] = 0.0
                layer.weight[1::3] = 0.0
        smaller = compact(small, whole_units)
        torch.testing.assert_close(smaller(x), small(x), rtol=1e-6, atol=1e-6)
    assert n_entries(smaller) < n_entries(small) or whole_units  # what is mixed stays
    selects = [m for m in smaller.modules() if isinstance(m, Select)]
    layers = [m for m in smaller.modules() if hasattr(m, "weight")]
    assert len(selects) <= (0 if whole_units else len(layers))


def test_widths_of_a_smaller_network():
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2))
    with torch.no_grad():
        for layer in net[::2]:
            layer.weight.fill_(1.0)
        net[0].weight[:, 3] = 0.0  # feature 3 is not used
        net[0].weight[0] = 0.0  # unit 0 is a constant
        net[2].weight[:, 1] = 0.0  # unit 1 goes nowhere
        net[4].weight[:, 2] = 0.0  # unit 2 of the second layer goes nowhere
        net[2].weight[0] = 0.0  # its unit 0 is a constant
    small = compact(net)
    assert [m.weight.shape for m in small if isinstance(m, nn.Linear)] == [(3, 3), (1, 3), (2, 1)]
    assert isinstance(small[0], Select)
    whole = compact(net, whole_units=True)
    assert [m.weight.shape for m in whole if isinstance(m, nn.Linear)] == [(3, 4), (1, 3), (2, 1)]
    assert not any(isinstance(m, Select) for m in whole)
    # everything removed: a network of its biases, with one unit a layer
    empty = compact(pruned(mlp, 0.0, 0))
    assert [m.weight.shape for m in empty if isinstance(m, nn.Linear)] == [(1, 1), (1, 1), (3, 1)]


@pytest.mark.parametrize("bias", [-1.0, 1.0])
def test_constant_channel_before_zero_padding_stays(bias):
    """relu(1) is seen inside and not beyond the border; relu(-1) is zero on both sides."""
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
    with torch.no_grad():
        net[0].weight[1] = 0.0
        net[0].bias[1] = bias
    small, x = compact(net), rows((1, 8, 8))
    assert small[0].out_channels == (3 if bias > 0 else 2)
    torch.testing.assert_close(small(x), net(x), rtol=1e-6, atol=1e-6)


def test_sum_over_a_window_is_no_average():
    net = nn.Sequential(
        nn.Conv2d(1, 3, 2), nn.ReLU(), nn.AvgPool2d(2, divisor_override=1), nn.Conv2d(3, 2, 2)
    )
    with torch.no_grad():
        net[0].weight[1] = 0.0
        net[0].bias[1] = 0.7
    x = rows((1, 8, 8))
    torch.testing.assert_close(compact(net)(x), net(x), rtol=1e-6, atol=1e-6)


def test_network_that_cannot_be_traced():
    class Branches(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match="Branches cannot be traced"):
        compact(Branches())


@pytest.mark.parametrize("name", ["mlp", "lenet", "norms"])
def test_export(name):
    make, shape = NETWORKS[name]
    small, x = compact(pruned(make, 0.05, 0)), rows(shape)
    batch = {0: torch.export.Dim("batch", min=2, max=1000)}
    program = torch.export.export(small, (x,), dynamic_shapes=(batch,))
    with io.BytesIO() as file:
        torch.export.save(program, file)
        file.seek(0)
        loaded = torch.export.load(file).module()
    more = rows(shape, n=9, seed=1)
    torch.testing.assert_close(loaded(more), small(more), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["mlp", "lenet", "norms"])
@pytest.mark.filterwarnings("ignore")  # of the exporter about itself
def test_onnx(name, tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    make, shape = NETWORKS[name]
    small, x = compact(pruned(make, 0.05, 0)), rows(shape)
    path = tmp_path / "small.onnx"
    batch = {0: torch.export.Dim("batch", min=2, max=1000)}
    torch.onnx.export(small, (x,), path, dynamo=True, dynamic_shapes=(batch,), verbose=False)
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    more = rows(shape, n=9, seed=1)
    (out,) = session.run(None, {session.get_inputs()[0].name: more.numpy()})
    np.testing.assert_allclose(out, small(more).detach(), rtol=1e-5, atol=1e-6)


def chain_of_convolutions():
    return nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(200, 50), nn.GELU(),
        nn.Linear(50, 4), nn.LogSoftmax(1),
    )  # fmt: skip


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (mlp, (30,)),
        NETWORKS["mlp-sigmoid"],
        NETWORKS["images"],
        (chain_of_convolutions, (1, 12, 12)),
    ],
)
def test_sparse_network_predicts_the_same(make, shape, share):
    net = pruned(make, share, 3)
    fast = SparseNetwork(net)
    for n in (1, 7, 1100):  # less than a block, and more than two
        x = rows(shape, n=n)
        expected = net(x).detach().numpy()
        np.testing.assert_allclose(fast(x.numpy()), expected, rtol=1e-5, atol=1e-6)
    assert fast(x.numpy().astype(float)).dtype == np.float32
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(fast))(x.numpy()), fast(x.numpy()))
    is_sparse = [not isinstance(weight, np.ndarray) for weight, _, _ in fast.matrices]
    assert not any(is_sparse) if share in (0.5, 1.0) else True
    assert fast.n_nonzero <= sum(int((p != 0).sum()) for p in net.parameters() if p.dim() > 1)


def test_sparse_network_of_what_is_no_chain():
    with pytest.raises(ValueError, match="not a chain"):
        SparseNetwork(Residual())
    with pytest.raises(ValueError, match="no linear layer"):
        SparseNetwork(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()))
    with pytest.raises(ValueError, match="sparse_below=2"):
        SparseNetwork(mlp(), sparse_below=2)


def test_masks_by_hand():
    masks = local_masks({"0.weight": np.array([[2.9, 3.0], [-8.0, 8.0]])})
    np.testing.assert_array_equal(masks["0.weight"], [[True, False], [True, False]])
    assert sparsity(masks)["all"] == 0.5
    masks["2.weight"] = np.ones((1, 2), dtype=bool)
    assert sparsity(masks) == pytest.approx({"0.weight": 0.5, "2.weight": 0.0, "all": 1 / 3})


def test_group_masks_by_hand():
    shapes = {"conv": (2, 1, 3, 3), "fc1": (3, 4), "fc2": (2, 3)}  # a channel has two positions
    kept = {"fc1": [True, False, False, False], "fc2": [True, True, False]}
    masks = group_masks(shapes, kept)
    np.testing.assert_array_equal(masks["conv"][:, 0].reshape(2, 9).T, [[True, False]] * 9)
    np.testing.assert_array_equal(masks["fc1"], np.outer([1, 1, 0], [1, 0, 0, 0]))
    np.testing.assert_array_equal(masks["fc2"], np.outer([1, 1], [1, 1, 0]))
    # channels removed by their own layer take their positions with them
    masks = group_masks(shapes, {"fc2": [False, True, True]}, {"conv": [False, True]})
    np.testing.assert_array_equal(masks["fc1"], np.outer([0, 1, 1], [0, 0, 1, 1]))
    biases = bias_masks({"1.weight": masks["fc1"], "2.weight": np.zeros((2, 3), dtype=bool)})
    np.testing.assert_array_equal(biases["1.bias"], [False, True, True])
    np.testing.assert_array_equal(biases["2.bias"], [True, True])


def test_group_masks_of_what_does_not_fit():
    with pytest.raises(ValueError, match="do not fit the 5 inputs of 'b'"):
        group_masks({"a": (2, 3), "b": (1, 5)})
    with pytest.raises(ValueError, match=r"inputs\['a'\] has shape \(2,\)"):
        group_masks({"a": (2, 3)}, {"a": [True, False]})
    with pytest.raises(ValueError, match="'b' is no parameter"):
        apply_masks(nn.Linear(2, 1), {"b": np.ones((1, 2))})
    with pytest.raises(ValueError, match="has shape"):
        apply_masks(nn.Linear(2, 1), {"weight": np.ones((2, 1))})


def test_bits_by_hand():
    """2 v < 2^-t, strictly, for t = 1 to 23; the mean over kept weights, rounded up."""
    every = np.ones(1, dtype=bool)
    for variance, bits in ((1.0, 0), (0.25, 0), (0.2, 1), (2.0**-6, 4), (2.0**-6.5, 5), (0.0, 23)):
        assert fraction_bits(np.array([variance]), every) == bits
    two = np.array([2.0**-6, 0.2, 0.0])  # 4, 1 and 23 bits
    assert fraction_bits(two, np.array([True, True, False])) == 3
    assert fraction_bits(two, np.zeros(3, dtype=bool)) == 0
    masks = {"a": np.ones(2, dtype=bool), "b": np.ones(1, dtype=bool)}
    mean = {"a": np.array([0.1, -3.0]), "b": np.array([0.3])}
    variance = {"a": np.full(2, 2.0**-6), "b": np.array([0.2])}
    # size: ceil(log2(log2(3) + 1) + 1) = ceil(2.37) = 3, and the sign
    assert bit_precision(mean, variance, masks) == {"a": 1 + 3 + 4, "b": 1 + 3 + 1}
    np.testing.assert_array_equal(round_to_bits(mean, variance, masks)["a"], [0.125, -3.0])
    small = {"a": np.array([0.1, 0.2]), "b": np.array([0.3])}
    assert bit_precision(small, variance, masks) == {"a": 5, "b": 2}


def test_bits_of_group_horseshoe_as_published():
    """Louizos et al. (2017): widths 5-10-76-16 of LeNet-5 are 156 times, 419 with their bits."""
    shapes = {"conv1": (20, 1, 5, 5), "conv2": (50, 20, 5, 5), "fc1": (500, 800), "fc2": (10, 500)}
    outputs = {"conv1": np.arange(20) < 5, "conv2": np.arange(50) < 10}
    place = np.arange(800)
    inputs = {"fc1": (place < 160) & (place % 16 < 8), "fc2": np.arange(500) < 16}
    inputs["fc1"][:4] = False  # 76 positions of ten channels
    masks = group_masks(shapes, inputs, outputs)
    assert [int(m.sum()) for m in masks.values()] == [5 * 25, 250 * 5, 76 * 16, 16 * 10]
    assert round(compression_ratio(masks)) == 156
    bits = dict(zip(masks, (10, 10, 14, 13), strict=True))
    assert compression_ratio(masks, bits) == pytest.approx(419, rel=0.02)


def test_compression_ratio_with_biases_and_index():
    masks = {"w": np.zeros(100, dtype=bool), "b": np.ones(4, dtype=bool)}
    masks["w"][[0, 40]] = True
    assert compression_ratio(masks) == 104 / 6
    assert compression_ratio({"w": masks["w"]}, {"w": 8}) == 100 * 32 / (2 * 8)
    # distance 40 in 4 bits: two zeros between
    assert compression_ratio({"w": masks["w"]}, {"w": 8}, index_bits=4) == 3200 / (4 * 12)
    assert compression_ratio({"w": np.zeros(3, dtype=bool)}) == np.inf
    with pytest.raises(ValueError, match="index_bits=-1"):
        compression_ratio(masks, index_bits=-1)


@pytest.mark.parametrize("threshold", [float("nan"), "3", None, True])
def test_masks_name_a_bad_threshold(threshold):
    with pytest.raises(ValueError, match="threshold=.* is not allowed; it must be a number that"):
        local_masks({"w": np.zeros(2)}, threshold)
    with pytest.raises(ValueError, match="threshold=.* is not allowed; it must be a number that"):
        local_masks({"w": np.zeros(2)}, {"w": threshold})
    with pytest.raises(ValueError, match="threshold=.* is not allowed; it must be a number that"):
        signal_to_noise_masks(None, threshold)


def test_masks_by_a_threshold_for_each_weight():
    log_alpha = {"0.weight": np.array([1.0, 3.5]), "2.weight": np.array([1.0, 3.5])}
    masks = local_masks(log_alpha, {"2.weight": 4.0, "0.weight": 1.0})
    np.testing.assert_array_equal(masks["0.weight"], [False, False])
    np.testing.assert_array_equal(masks["2.weight"], [True, True])
    for names in (["0.weight"], ["0.weight", "2.weight", "4.weight"], []):
        with pytest.raises(ValueError, match="must be a number, or have one for each of"):
            local_masks(log_alpha, dict.fromkeys(names, 3.0))


def test_other_bad_arguments_are_named():
    mask = {"w": np.ones(3, dtype=bool)}
    for name, value in [("index_bits", "a"), ("index_bits", 1.5), ("full_bits", 0)]:
        with pytest.raises(ValueError, match=f"{name}=.* is not allowed; it must be an integer"):
            compression_ratio(mask, **{name: value})
    with pytest.raises(ValueError, match="sparse_below='a' is not allowed"):
        SparseNetwork(mlp(), sparse_below="a")
    with pytest.raises(ValueError, match="there must be an entry"):
        sparsity({})
    with pytest.raises(ValueError, match="needs the posterior of VI"):
        signal_to_noise_masks(mlp())
