import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import AugmentConfig
from etp_jax.errors import EtpError
from etp_jax.training.augment import augment, shift

SIZE, SAMPLES, LEADS, FS = 6, 200, 12, 100
RNG = np.random.default_rng(0)
ECG = RNG.integers(1, 3000, (SIZE, SAMPLES, LEADS)).astype(np.int16)  # no zero, so that zeros are the augmentation's
MASK = np.ones((SIZE, LEADS), bool)
KEYS = jax.random.split(jax.random.key(0), SIZE)
EVERYTHING = AugmentConfig(time_shift_s=0.3, lead_dropout=0.4, few_leads=0.3)


compiled = jax.jit(augment, static_argnums=(3, 4), compiler_options={"xla_backend_optimization_level": 0})


def run(
    config: AugmentConfig, ecg: np.ndarray = ECG, mask: np.ndarray = MASK, keys: jax.Array = KEYS, fs: int = FS
) -> tuple[np.ndarray, np.ndarray]:
    x, kept = compiled(ecg, mask, keys, config, fs)
    return np.asarray(x), np.asarray(kept)


def many(config: AugmentConfig, size: int, ecg: np.ndarray, mask=None, fs: int = FS) -> tuple[np.ndarray, np.ndarray]:
    """One ECG [T, leads] augmented with many keys."""
    ecg = np.broadcast_to(ecg, (size, *ecg.shape))
    mask = np.ones((size, ecg.shape[2]), bool) if mask is None else mask
    return run(config, ecg, mask, jax.random.split(jax.random.key(1), size), fs)


def test_everything_off_computes_nothing():
    program = jax.make_jaxpr(lambda x, m, k: augment(x, m, k, AugmentConfig(), FS))(ECG, MASK, KEYS)
    assert program.eqns == []


@pytest.mark.parametrize(
    ("option", "absent"),
    [
        ("lead_dropout", "pad"),
        ("few_leads", "pad"),
        ("time_shift_s", "sort"),
        ("lead_dropout", "sort"),
    ],
)
def test_what_is_off_is_not_in_the_program(option, absent):
    program = str(jax.make_jaxpr(lambda x, m, k: augment(x, m, k, AugmentConfig(**{option: 0.5}), FS))(ECG, MASK, KEYS))
    assert re.search(rf"\b{absent}\[", program) is None


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_shapes_and_types(dtype):
    x, kept = run(EVERYTHING, ECG.astype(dtype))
    assert (x.shape, x.dtype, kept.shape, kept.dtype) == (ECG.shape, np.float32, MASK.shape, np.bool_)


def test_an_example_depends_on_its_own_key_only():
    x, kept = run(EVERYTHING)
    rows = np.array([5, 0, 3])
    some, some_kept = run(EVERYTHING, ECG[rows], MASK[rows], KEYS[rows])
    np.testing.assert_array_equal(some_kept, kept[rows])
    np.testing.assert_allclose(some, x[rows], rtol=1e-6, atol=1e-3)  # µV; fused differently, drawn the same
    again, _ = run(EVERYTHING)
    np.testing.assert_array_equal(again, x)
    other, _ = run(EVERYTHING, keys=jax.random.split(jax.random.key(9), SIZE))
    assert all(not np.array_equal(a, b) for a, b in zip(x, other, strict=True))


def test_time_shift_moves_by_whole_samples_within_its_bound_and_fills_with_zeros():
    x, _ = many(AugmentConfig(time_shift_s=0.05), 300, ECG[0])
    padded = np.pad(ECG[0], ((5, 5), (0, 0)))
    shifted = {by: padded[5 - by : 5 - by + SAMPLES] for by in range(-5, 6)}
    found = [[by for by, expected in shifted.items() if np.array_equal(row, expected)] for row in x]
    assert all(len(by) == 1 for by in found)
    assert {by[0] for by in found} == set(range(-5, 6))


@pytest.mark.parametrize("greatest", [1, 7, 64, SAMPLES - 1])
def test_time_shift_equals_a_slice_of_each_padded_record(greatest):
    def sliced(x_TL, by):
        padded = jnp.pad(x_TL, ((greatest, greatest), (0, 0)))
        return jax.lax.dynamic_slice_in_dim(padded, greatest - by, len(x_TL))

    by = np.array([-greatest, -1, 0, 1, greatest // 2, greatest])
    x = ECG.astype(np.float32)
    np.testing.assert_array_equal(jax.jit(shift, static_argnums=2)(x, by, greatest), jax.vmap(sliced)(x, by))


def test_no_change_loops_over_the_examples():
    program = str(jax.make_jaxpr(lambda x, m, k: augment(x, m, k, EVERYTHING, FS))(ECG, MASK, KEYS))
    assert "gather" not in program and "dynamic_slice" not in program  # both are loops on a TPU


def test_time_shift_is_in_seconds():
    x, _ = many(AugmentConfig(time_shift_s=0.05), 100, ECG[0], fs=20)
    assert set(np.unique((x == 0).all(axis=2).sum(axis=1))) == {0, 1}  # 0.05 s is one sample at 20 Hz


def test_lead_dropout_silences_leads_says_so_and_always_leaves_one():
    x, kept = many(AugmentConfig(lead_dropout=0.4), 500, ECG[0])
    np.testing.assert_array_equal((x == 0).all(axis=1), ~kept)
    np.testing.assert_array_equal(x[:, 0] != 0, kept)
    assert kept.any(axis=1).all()
    assert abs(kept.mean() - 0.6) < 0.03  # 6000 draws: four standard deviations
    _, one = many(AugmentConfig(lead_dropout=1.0), 200, ECG[0])
    assert (one.sum(axis=1) == 1).all()
    assert len(np.unique(one.argmax(axis=1))) == LEADS, "any lead can be the one that stays"


def test_a_lead_that_was_not_recorded_is_never_the_one_that_stays():
    mask = np.zeros((50, LEADS), bool)
    mask[:, [2, 7]] = True
    x, kept = many(AugmentConfig(lead_dropout=1.0), 50, ECG[0], mask)
    assert not kept[:, ~mask[0]].any() and (kept.sum(axis=1) == 1).all()
    assert (x[:, :, ~mask[0]] == 0).all()
    _, none = many(AugmentConfig(lead_dropout=0.5), 5, ECG[0], np.zeros((5, LEADS), bool))
    assert not none.any()


def test_few_leads_keeps_sets_of_every_size():
    x, kept = many(AugmentConfig(few_leads=1.0), 1200, ECG[0])
    np.testing.assert_array_equal((x == 0).all(axis=1), ~kept)
    np.testing.assert_array_equal(x[:, 0] != 0, kept)
    sizes = np.bincount(kept.sum(axis=1), minlength=LEADS + 1)
    assert sizes[0] == 0 and (sizes[1:] > 60).all(), sizes  # 100 of each on average: four standard deviations
    assert abs(kept.mean(axis=0) - kept.mean()).max() < 0.06, "no lead is favoured"
    _, half = many(AugmentConfig(few_leads=0.5), 1000, ECG[0])
    assert abs(half.all(axis=1).mean() - (0.5 + 0.5 / LEADS)) < 0.07
    mask = np.arange(LEADS) < 3
    _, some = many(AugmentConfig(few_leads=1.0), 300, ECG[0], np.broadcast_to(mask, (300, LEADS)))
    assert not some[:, ~mask].any() and set(some.sum(axis=1)) == {1, 2, 3}
    _, none = many(AugmentConfig(few_leads=1.0), 5, ECG[0], np.zeros((5, LEADS), bool))
    assert not none.any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time_shift_s": 2.0}, "time_shift_s is 2.0; the records last 2 s"),
        ({"time_shift_s": -0.1}, "time_shift_s is -0.1"),
        ({"lead_dropout": -0.5}, "lead_dropout is -0.5"),
        ({"few_leads": 2.0}, "few_leads is 2.0; it must lie between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(EtpError, match=message):
        augment(jnp.asarray(ECG), jnp.asarray(MASK), KEYS, AugmentConfig(**options), FS)
