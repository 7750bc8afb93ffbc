"""Tests of the ResNet ECG encoder against PyTorch, against NumPy, and of its documented properties."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from etp_jax.config import ResNetConfig
from etp_jax.errors import EtpError
from etp_jax.models.layers import AXIS
from etp_jax.models.resnet1d import STAGES, Pool, ResNet1D, conv

RNG = np.random.default_rng(0)


def init(config: ResNetConfig, dtype: Any = jnp.float32) -> tuple[ResNet1D, Any]:
    """A network for three leads with random variables; NumPy's, which need no compiling."""
    model = ResNet1D(config, dtype)
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 64, 3), dtype), jnp.ones((1, 3), bool))

    def leaf(path: Any, shape: Any) -> Any:
        name = path[-1].key
        noise = RNG.standard_normal(shape.shape)
        value = {"kernel": noise * (2 / np.prod(shape.shape[:-1])) ** 0.5, "var": 1 + 0.5 * np.tanh(noise)}
        return value.get(name, (name == "scale") + 0.1 * noise).astype(shape.dtype)

    return model, jax.tree.map_with_path(leaf, shapes)


def train_forward(model: ResNet1D, variables: Any, shards_DnTL: Any) -> tuple[Any, Any]:
    """Training mode on D virtual replicas; returns features [D, n, F] and the replicas' batch statistics."""

    def forward(ecg_nTL: Any) -> Any:
        return model.apply(variables, ecg_nTL, all_leads(ecg_nTL), train=True, mutable=["batch_stats"])

    return jax.jit(jax.vmap(forward, axis_name=AXIS))(shards_DnTL)


def all_leads(ecg_BTL: Any) -> np.ndarray:
    return np.ones((len(ecg_BTL), ecg_BTL.shape[2]), bool)


def apply(module: nn.Module, variables: Any, x: Any) -> Any:
    args = (x, all_leads(x)) if isinstance(module, ResNet1D) else (x,)
    return jax.jit(module.apply)(variables, *args)


# --- against PyTorch ----------------------------------------------------------------------------------------------


def torch_resnet(config: ResNetConfig, leads: int) -> Any:
    """The same network in PyTorch; module names are the Flax ones with "_" for "/"."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    bottleneck = config.depth == 50
    expansion = 4 if bottleneck else 1

    class Block(nn.Module):
        def __init__(self, inputs: int, channels: int, stride: int) -> None:
            super().__init__()
            outputs, k = channels * expansion, config.kernel
            shapes = (
                [(inputs, channels, 1, 1), (channels, channels, k, stride), (channels, outputs, 1, 1)]
                if bottleneck
                else [(inputs, channels, k, stride), (channels, outputs, k, 1)]
            )
            self.depth = len(shapes)
            for i, (a, b, k, s) in enumerate(shapes, 1):
                setattr(self, f"conv{i}", nn.Conv1d(a, b, k, s, padding=k // 2, bias=False))
                setattr(self, f"norm{i}", nn.BatchNorm1d(b))
            if stride != 1 or inputs != outputs:
                self.shortcut_conv = nn.Conv1d(inputs, outputs, 1, stride, bias=False)
                self.shortcut_norm = nn.BatchNorm1d(outputs)

        def forward(self, x: Any) -> Any:
            y = x
            for i in range(1, self.depth + 1):
                y = getattr(self, f"norm{i}")(getattr(self, f"conv{i}")(y))
                y = y.relu() if i < self.depth else y
            if hasattr(self, "shortcut_conv"):
                x = self.shortcut_norm(self.shortcut_conv(x))
            return (x + y).relu()

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem_conv = nn.Conv1d(leads, config.width, 7, 2, padding=3, bias=False)
            self.stem_norm = nn.BatchNorm1d(config.width)
            self.pool = nn.MaxPool1d(3, 2, padding=1) if config.stem == "conv-pool" else nn.Identity()
            inputs, self.names = config.width, []
            for stage, count in enumerate((2, 2, 2, 2) if config.depth == 18 else (3, 4, 6, 3)):
                for i in range(count):
                    name = f"stage{stage + 1}_block{i + 1}"
                    channels = config.width * 2**stage
                    setattr(self, name, Block(inputs, channels, 2 if stage and not i else 1))
                    self.names.append(name)
                    inputs = channels * expansion

        def forward(self, x: Any) -> Any:
            x = self.pool(self.stem_norm(self.stem_conv(x)).relu())
            for name in self.names:
                x = getattr(self, name)(x)
            return x.mean(-1)

    return Net()


def from_torch(net: Any) -> Any:
    """Flax variables of a PyTorch network."""
    leaves = {
        "running_mean": ("batch_stats", "mean"),
        "running_var": ("batch_stats", "var"),
        "bias": ("params", "bias"),
    }
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for name, tensor in net.state_dict().items():
        *parents, leaf = name.split(".")
        value = tensor.numpy().copy()
        if leaf == "num_batches_tracked":
            continue
        if leaf == "weight":
            collection, leaf = "params", "kernel" if value.ndim == 3 else "scale"
            value = value.transpose(2, 1, 0) if value.ndim == 3 else value
        else:
            collection, leaf = leaves[leaf]
        node = variables[collection]
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value
    return variables


@pytest.mark.optional
@pytest.mark.parametrize(
    ("config", "samples", "double"),
    [
        (ResNetConfig(depth=18, width=8), 128, False),
        (ResNetConfig(depth=18, width=8), 128, True),
        (ResNetConfig(depth=18, width=4, stem="conv-pool", kernel=5), 131, True),
        (ResNetConfig(depth=34, width=4), 96, True),
        (ResNetConfig(depth=50, width=4), 101, True),
    ],
    ids=["18-float32", "18", "18-pool-kernel5-odd", "34", "50-odd"],
)
def test_equals_pytorch(config: ResNetConfig, samples: int, double: bool) -> None:
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch_resnet(config, leads=12)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, 0.0, 0.2)
            torch.nn.init.uniform_(module.running_var, 0.5, 1.5)
            torch.nn.init.normal_(module.running_mean, 0.0, 0.2)
    net = net.double() if double else net
    tolerance = 1e-10 if double else 1e-5
    x_BTL = np.random.default_rng(1).standard_normal((6, samples, 12)).astype(np.float64 if double else np.float32)
    x_torch = torch.from_numpy(x_BTL).transpose(1, 2)
    variables = from_torch(net)
    with torch.no_grad():
        expected_eval = net.eval()(x_torch).numpy()
        expected_train = net.train()(x_torch).numpy()
    with jax.enable_x64(double):
        model = ResNet1D(config, jnp.float64 if double else jnp.float32)
        features_eval = apply(model, variables, x_BTL)
        features_train, updated = train_forward(model, variables, x_BTL[None])
        scale = np.abs(expected_eval).max(), np.abs(expected_train).max()
        assert np.abs(features_eval - expected_eval).max() / max(1, scale[0]) <= tolerance
        assert np.abs(features_train[0] - expected_train).max() / max(1, scale[1]) <= tolerance
        # PyTorch's running variance is the unbiased one, ours the batch's own; the means agree.
        mean = updated["batch_stats"]["stage1_block1"]["norm1"]["mean"][0]
        np.testing.assert_allclose(mean, net.stage1_block1.norm1.running_mean.numpy(), rtol=0, atol=tolerance)


# --- without PyTorch ----------------------------------------------------------------------------------------------


def test_strided_convolution_pads_both_sides_alike() -> None:
    """The stem by hand: window i covers samples 2 i - 3 ... 2 i + 3; "SAME" would start one sample later."""
    _, variables = init(ResNetConfig(width=4))
    x_BTL = RNG.standard_normal((2, 20, 3)).astype(np.float32)
    stem = apply(conv(4, 7, 2, jnp.float32, "stem_conv"), {"params": variables["params"]["stem_conv"]}, x_BTL)
    padded = np.pad(x_BTL, ((0, 0), (3, 3), (0, 0)))
    kernel = np.asarray(variables["params"]["stem_conv"]["kernel"])
    expected = np.stack([np.einsum("bkl,klc->bc", padded[:, 2 * i : 2 * i + 7], kernel) for i in range(10)], axis=1)
    np.testing.assert_allclose(stem, expected, atol=1e-5)


def test_default_has_the_published_size() -> None:
    """3.85 M, as MERL's ResNet18-1D for 12 leads before its attention pool (notes: 3.85M)."""
    model = ResNet1D(ResNetConfig())
    shapes = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 1000, 12)), jnp.ones((1, 12), bool))["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 3_848_832


@pytest.mark.parametrize(("pool", "samples", "size"), [("mean", 1, 32), ("mean-max", 97, 64), ("stages", 97, 120)])
def test_any_length(pool: Any, samples: int, size: int) -> None:
    config = ResNetConfig(width=4, pool=pool)
    model, variables = init(config)
    features = apply(model, variables, RNG.standard_normal((2, samples, 3)).astype(np.float32))
    assert features.shape == (2, size) and features.dtype == jnp.float32
    assert np.isfinite(features).all() and np.abs(features).max() > 0


def test_pooling_of_every_stage_is_its_mean_and_maximum() -> None:
    model, variables = init(ResNetConfig(width=4, pool="stages"))
    x = RNG.standard_normal((2, 97, 3)).astype(np.float32)
    result: Any = model.apply(variables, x, np.ones((2, 3), bool), mutable=[STAGES])  # pyright: ignore[reportArgumentType]
    features, sown = result
    summaries = [sown[STAGES][f"stage{stage}"][0] for stage in (1, 2, 3, 4)]
    expected = np.hstack([each[:, : 2 * each.shape[1] // 3] for each in summaries])  # without the deviations
    np.testing.assert_allclose(features, expected, rtol=1e-6)


def test_pooling() -> None:
    x = RNG.standard_normal((2, 5, 3)).astype(np.float32)
    np.testing.assert_allclose(apply(Pool("mean"), {}, x), x.mean(1), atol=1e-6)
    np.testing.assert_allclose(apply(Pool("max"), {}, x), x.max(1), atol=1e-6)
    np.testing.assert_allclose(apply(Pool("mean-max"), {}, x), np.hstack([x.mean(1), x.max(1)]), atol=1e-6)
    start = Pool("attention").init(jax.random.key(0), x)
    np.testing.assert_allclose(apply(Pool("attention"), start, x), x.mean(1), atol=1e-6)
    kernel = RNG.standard_normal((3, 1)).astype(np.float32)
    weights = np.exp(x @ kernel) / np.exp(x @ kernel).sum(1, keepdims=True)
    learned = apply(Pool("attention"), {"params": {"score": {"kernel": kernel}}}, x)
    np.testing.assert_allclose(learned, (x * weights).sum(1), atol=1e-6)


def test_first_weights_have_he_deviation() -> None:
    kernel = conv(512, 3, 1, jnp.float32, "conv").init(jax.random.key(0), jnp.zeros((1, 8, 256)))["params"]["kernel"]
    np.testing.assert_allclose(np.asarray(kernel).std(), (2 / (3 * 512)) ** 0.5, rtol=0.01)


def test_batch_statistics_span_all_replicas() -> None:
    """Four replicas of two ECGs do what one replica of eight does."""
    with jax.enable_x64(True):
        model, variables = init(ResNetConfig(width=4), dtype=jnp.float64)
        x = RNG.standard_normal((8, 96, 3)) + 3.0
        whole, stats = train_forward(model, variables, x[None])
        parts, stats_parts = train_forward(model, variables, x.reshape(4, 2, 96, 3))
        np.testing.assert_allclose(parts.reshape(8, -1), whole[0], rtol=0, atol=1e-10)
        for a, b in zip(jax.tree.leaves(stats_parts), jax.tree.leaves(stats), strict=True):
            np.testing.assert_allclose(a, np.broadcast_to(b, a.shape), rtol=0, atol=1e-10)


def test_group_norm_sees_only_its_own_example() -> None:
    model, variables = init(ResNetConfig(width=4, norm="group"))
    assert "batch_stats" not in variables
    x = RNG.standard_normal((4, 96, 3)).astype(np.float32)
    whole, _ = train_forward(model, variables, x[None])
    alone, _ = train_forward(model, variables, x[:, None])
    np.testing.assert_allclose(whole[0], alone[:, 0], atol=1e-5)


def test_drop_path_follows_the_example() -> None:
    """Eight copies of one ECG: what is skipped goes with the key, wherever in the batch it stands."""
    model, variables = init(ResNetConfig(width=4, drop_path=0.5))
    x = np.tile(RNG.standard_normal((1, 96, 3)).astype(np.float32), (8, 1, 1))
    keys = jax.random.split(jax.random.key(1), 8)
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    forward = jax.jit(lambda keys: model.apply(variables, x, all_leads(x), keys=keys))
    features = np.asarray(forward(keys))
    np.testing.assert_allclose(forward(keys[order]), features[order], atol=1e-6)
    assert len(np.unique(features[:, 0].round(4))) > 4, "different keys skip different branches"
    assert len(np.unique(np.asarray(apply(model, variables, x))[:, 0].round(4))) == 1


def test_bfloat16_stays_near_and_gives_float32() -> None:
    config = ResNetConfig(width=8)
    _, variables = init(config)
    x = RNG.standard_normal((4, 96, 3)).astype(np.float32)
    exact = apply(ResNet1D(config), variables, x)
    coarse = apply(ResNet1D(config, jnp.bfloat16), variables, x)
    assert coarse.dtype == jnp.float32
    np.testing.assert_allclose(coarse, exact, atol=0.03 * np.abs(exact).max())


def test_even_kernel_is_refused() -> None:
    with pytest.raises(EtpError, match=r"model\.ecg\.kernel is 4; .* odd"):
        init(ResNetConfig(kernel=4))
