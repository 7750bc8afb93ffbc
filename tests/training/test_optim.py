import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from etp_jax.config import LossConfig, ModelConfig, OptimConfig, TextTowerConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.training import optim

RNG = np.random.default_rng(0)
PARAMS: dict[str, Any] = {
    "ecg_tower": {"conv": {"kernel": RNG.normal(size=(3, 2, 4))}, "norm": {"scale": RNG.normal(size=4)}},
    "ecg_projection": {"linear": {"kernel": RNG.normal(size=(4, 2)), "bias": RNG.normal(size=2)}},
    "text_tower": {
        "embeddings": {"word_embeddings": {"embedding": RNG.normal(size=(5, 3))}},
        "encoder": {
            "layer": {str(i): {"kernel": RNG.normal(size=(3, 3)), "bias": RNG.normal(size=3)} for i in (1, 11)}
        },
    },
    "logit_scale": np.array(2.0),
    "logit_bias": np.array(-10.0),
}
GRADS: list[Any] = [jax.tree.map(lambda p: RNG.normal(size=p.shape), PARAMS) for _ in range(5)]
STEPS_PER_EPOCH = 4


def flat(tree: Any) -> dict[str, Any]:
    return {
        jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in jax.tree_util.tree_leaves_with_path(tree)
    }


def updated(config: OptimConfig) -> dict[str, np.ndarray]:
    """Parameters after five steps, in float64."""
    with jax.enable_x64(True):
        optimizer, _ = optim.make_optimizer(config, STEPS_PER_EPOCH)
        params: Any = jax.tree.map(jnp.asarray, PARAMS)
        state = optimizer.init(params)
        updates: Any
        for grads in GRADS:
            updates, state = optimizer.update(grads, state, params)
            params = optax.apply_updates(params, updates)
        return {name: np.asarray(value) for name, value in flat(params).items()}


def rates(config: OptimConfig) -> list[float]:
    """The learning rate of each of those steps, as the options are described."""
    total, warmup = config.epochs * STEPS_PER_EPOCH, config.warmup_epochs * STEPS_PER_EPOCH
    rows = []
    for step in range(5):
        rate = config.learning_rate * (min(1.0, (step + 1) / warmup) if warmup else 1.0)
        if config.schedule == "cosine":
            rate *= (1 + math.cos(math.pi * max(0.0, (step - warmup) / (total - warmup)))) / 2
        rows.append(rate)
    return rows


@pytest.mark.optional
@pytest.mark.parametrize(
    "config",
    [
        OptimConfig(name="adam", learning_rate=1e-2, weight_decay=0.1, schedule="constant"),
        OptimConfig(name="adamw", learning_rate=1e-2, weight_decay=0.1, schedule="constant"),
        OptimConfig(name="adamw", learning_rate=1e-2, weight_decay=0.1, epochs=2, warmup_epochs=0.5, b1=0.8, b2=0.95),
        OptimConfig(
            name="adam", learning_rate=1e-2, weight_decay=0.1, epochs=2, clip_norm=0.5, text_learning_rate=1e-3
        ),
    ],
    ids=["adam", "adamw", "adamw-warmup-cosine", "adam-clipped-two-rates"],
)
def test_five_steps_are_pytorchs(config: OptimConfig):
    """PyTorch is told parameter by parameter what decays and how fast it learns."""
    torch = pytest.importorskip("torch", reason="PyTorch is the reference")
    tensors = {name: torch.nn.Parameter(torch.tensor(value)) for name, value in flat(PARAMS).items()}
    text_ratio = (config.text_learning_rate or config.learning_rate) / config.learning_rate
    groups = [
        {"params": [tensor], "weight_decay": config.weight_decay if tensor.ndim > 1 else 0.0, "name": name}
        for name, tensor in tensors.items()
    ]
    kind = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[config.name]
    optimizer = kind(groups, lr=config.learning_rate, betas=(config.b1, config.b2), eps=1e-8)
    for grads, rate in zip(GRADS, rates(config), strict=True):
        for name, value in flat(grads).items():
            tensors[name].grad = torch.tensor(value)
        if config.clip_norm:
            # By hand: torch's clip_grad_norm_ adds 1e-6 to the norm.
            norm = math.sqrt(sum(float((t.grad**2).sum()) for t in tensors.values()))
            for tensor in tensors.values():
                tensor.grad *= min(1.0, config.clip_norm / norm)
        for group in optimizer.param_groups:
            group["lr"] = rate * (text_ratio if group["name"].startswith("text_tower/") else 1.0)
        optimizer.step()
    for name, value in updated(config).items():
        np.testing.assert_allclose(value, tensors[name].detach().numpy(), rtol=0, atol=1e-10, err_msg=name)


def test_the_first_adamw_step_by_hand():
    """The first step of Adam is the sign of the gradient, whatever its size."""
    config = OptimConfig(learning_rate=0.1, weight_decay=0.5, schedule="constant")
    with jax.enable_x64(True):
        optimizer, _ = optim.make_optimizer(config, 1)
        params: Any = {"a": {"kernel": jnp.array([[4.0]]), "bias": jnp.array([4.0])}}
        grads = jax.tree.map(lambda p: jnp.full_like(p, 3.0), params)
        updates: Any
        updates, _ = optimizer.update(grads, optimizer.init(params), params)
    assert updates["a"]["kernel"][0, 0] == pytest.approx(-0.1 * (1 + 0.5 * 4), abs=1e-8)
    assert updates["a"]["bias"][0] == pytest.approx(-0.1, abs=1e-8)


def test_only_matrices_decay():
    names = {name for name, decays in flat(optim.decayed(PARAMS)).items() if decays}
    assert names == {
        "ecg_tower/conv/kernel",
        "ecg_projection/linear/kernel",
        "text_tower/embeddings/word_embeddings/embedding",
        "text_tower/encoder/layer/1/kernel",
        "text_tower/encoder/layer/11/kernel",
    }


def schedule_of(steps: int, **options: Any) -> list[float]:
    schedule = optim.make_schedule(OptimConfig(learning_rate=2.0, **options), STEPS_PER_EPOCH)
    return [float(schedule(step)) for step in range(steps)]


def test_cosine_schedule():
    rates = schedule_of(10, epochs=2.5, warmup_epochs=0.5)
    assert rates[:3] == pytest.approx([1.0, 2.0, 2.0])  # two steps of warm-up, then the peak
    assert rates[6] == pytest.approx(1.0)  # half-way through the cosine
    assert rates[-1] == pytest.approx(1 + math.cos(math.pi * 7 / 8), rel=1e-5)
    assert rates[1:] == sorted(rates[1:], reverse=True)


def test_a_maximum_of_steps_shrinks_the_whole_schedule():
    rates = schedule_of(5, epochs=2.5, warmup_epochs=1.0, max_steps=5)
    assert rates[:2] == pytest.approx([1.0, 2.0])  # 2 of 5 steps, as 4 of 10
    assert rates == pytest.approx([*rates[:3], 1.5, 0.5])  # a third and two thirds of the cosine
    assert optim.total_steps(OptimConfig(epochs=2.5, max_steps=5), STEPS_PER_EPOCH) == 5
    assert schedule_of(9, epochs=2.5, max_steps=11) == schedule_of(9, epochs=2.5)


def test_constant_schedule_goes_on_for_ever():
    assert schedule_of(3, schedule="constant", epochs=0.25) == [2.0, 2.0, 2.0]


def test_cosine_schedule_stays_at_zero_after_its_end():
    assert schedule_of(7, epochs=1)[4:] == pytest.approx([0, 0, 0], abs=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0.0}, "optim.epochs 0.0 at 4 steps an epoch is not a single step"),
        ({"epochs": 1.0, "warmup_epochs": 1.0}, "warmup_epochs 1.0 must be less than optim.epochs 1.0"),
        ({"max_steps": -1}, "optim.max_steps is -1; it must not be negative"),
        ({"learning_rate": 0.0}, "must be positive"),
        ({"text_learning_rate": -1.0}, "must be positive"),
        ({"clip_norm": -1.0}, "must not be negative"),
        ({"ema": 1.0}, "optim.ema is 1.0; it must be at least 0 and less than 1"),
    ],
)
def test_impossible_options_are_refused(options: dict[str, float], message: str):
    with pytest.raises(EtpError, match=message):
        optim.make_optimizer(OptimConfig(**options), STEPS_PER_EPOCH)  # pyright: ignore[reportArgumentType]


def fixed(trainable: str = ".*", learn_temperature: bool = True) -> set[str]:
    config = TrainConfig(
        model=ModelConfig(text=TextTowerConfig(trainable=trainable)),
        loss=LossConfig(learn_temperature=learn_temperature),
    )
    return {name for name, learned in flat(optim.trainable(PARAMS, config)).items() if not learned}


def test_everything_is_learned_unless_said_otherwise():
    assert fixed() == set()
    assert fixed(learn_temperature=False) == {"logit_scale"}


def test_trainable_must_match_a_whole_path():
    """`encoder/layer/1` must not let layer 11 through."""
    assert fixed("encoder/layer/1/.*") == {
        "text_tower/embeddings/word_embeddings/embedding",
        "text_tower/encoder/layer/11/kernel",
        "text_tower/encoder/layer/11/bias",
    }


def test_a_pattern_without_a_match_is_refused():
    with pytest.raises(EtpError, match=r"'encoder/layer/1' matches no parameter .* 'embeddings/word_embeddings/emb"):
        fixed("encoder/layer/1")
    with pytest.raises(EtpError, match=r"'\(' is not a regular expression"):
        fixed("(")


def test_a_frozen_tower_is_not_among_the_parameters_and_needs_no_pattern():
    params = {name: value for name, value in PARAMS.items() if name != "text_tower"}
    mask = optim.trainable(params, TrainConfig(model=ModelConfig(text=TextTowerConfig(frozen=True, trainable="none"))))
    assert all(jax.tree.leaves(mask))


def test_taking_apart_and_putting_together():
    mask = jax.tree.map(lambda p: p.ndim > 1, PARAMS)
    learned, rest = optim.take(PARAMS, mask), optim.take(PARAMS, mask, learned=False)
    assert len(jax.tree.leaves(learned)) + len(jax.tree.leaves(rest)) == len(jax.tree.leaves(PARAMS))
    whole = optim.merge(learned, rest)
    assert jax.tree.structure(whole) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(PARAMS), strict=True))
