"""Training of the ECG tower and a linear layer on labels: the network behind full fine-tuning."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util
from numpy.typing import NDArray

from etp_jax.config import AugmentConfig, OptimConfig
from etp_jax.encoder.encoder import Encoder, encode_ecg
from etp_jax.encoder.stages import POOLED, features_of
from etp_jax.errors import EtpError
from etp_jax.evaluation import merl
from etp_jax.evaluation.records import Labelled
from etp_jax.models.layers import AXIS
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN
from etp_jax.tasks import Task
from etp_jax.training.augment import augment
from etp_jax.training.optim import make_optimizer
from etp_jax.training.parallel import Parallel
from etp_jax.training.step import TrainState, average, example_keys

Tree = Any
BATCH = 128
OPTIM = OptimConfig(
    name="adamw", learning_rate=2e-3, weight_decay=0.05, epochs=10.0, warmup_epochs=0.5, clip_norm=5.0, ema=0.995
)
"""Schedule of the shipped recipe for PTB-XL, chosen on fold 9, with 10 epochs; the last epoch's weights are used."""
AUGMENT = AugmentConfig(time_shift_s=1.0, lead_dropout=0.05)


@dataclasses.dataclass(frozen=True)
class Tuned:
    """An encoder after fine-tuning, with its linear layer."""

    encoder: Encoder
    kernel_FK: NDArray[np.float32]
    bias_K: NDArray[np.float32]
    codes: tuple[str, ...]
    """The K label codes."""

    @classmethod
    def of(cls, encoder: Encoder, shards: Shards, optim: OptimConfig) -> Tuned:
        """Fine-tunes on the training split, or loads the cached result of the same fine-tuning."""
        about = [shards.fingerprint, encoder.train_seed, encoder.step, *map(dataclasses.asdict, (optim, AUGMENT))]
        kept = encoder.kept("tuned", [*about, BATCH], encoder.variables, lambda: _flat(tune(encoder, shards, optim)))
        tree = traverse_util.unflatten_dict(kept, sep="/")
        layer = tree["params"]["layer"]
        tuned = dataclasses.replace(encoder, variables=_variables(encoder, tree))
        return cls(tuned, layer["kernel"], layer["bias"], shards.label_vocabulary)

    def scores(self, records: Labelled, task: Task, views: int = 1) -> NDArray[np.float32]:
        """Computes the log-odds [n, C] of the classes from features averaged over `views` time shifts."""
        (features_nF,) = records.gather(lambda split: (features_of(self.encoder, split, POOLED, views),))
        logits_nK = features_nF @ self.kernel_FK + self.bias_K
        none_nK = -np.logaddexp(0, logits_nK)  # log probability that a code is absent
        member_KC = np.array([[code in c.codes for c in task.classes] for code in self.codes], np.float32)
        absent_nC = np.minimum(none_nK @ member_KC, -1e-12)
        return (np.log(-np.expm1(absent_nC)) - absent_nC).astype(np.float32)


def _variables(encoder: Encoder, tree: Tree) -> Tree:
    """Returns the encoder's variables with the fine-tuned ECG tower."""
    params = encoder.variables["params"] | {"ecg_tower": tree["params"]["ecg_tower"]}
    return {"params": params, "batch_stats": tree.get("batch_stats", {})}  # a tower without batch normalisation


def _flat(tree: Tree) -> dict[str, NDArray]:
    return {name: np.asarray(leaf) for name, leaf in traverse_util.flatten_dict(tree, sep="/").items()}


def tune(encoder: Encoder, shards: Shards, optim: OptimConfig) -> Tree:
    """Trains on all label codes of the training split; returns {"params": {"ecg_tower", "layer"}, "batch_stats"}."""
    split = shards.split(TRAIN)
    y_NK = np.array([[code in codes for code in shards.label_vocabulary] for codes in split.columns.labels], np.float32)
    names, patients = map(np.array, (split.columns.record_id, split.columns.patient_id))
    everyone = Labelled((split,), np.arange(len(split)), names, patients, y_NK > 0)
    size = min(BATCH, len(split))
    size -= size % jax.device_count()
    steps = len(split) // size
    optimizer, _ = make_optimizer(optim, steps)
    # The bias starts at the logit of the code's prevalence; otherwise the first steps would only learn that value.
    share_K = np.clip(y_NK.mean(axis=0), 0.5 / len(split), 1 - 0.5 / len(split))
    kernel_FK = np.zeros((_width(encoder, everyone), len(share_K)), np.float32)
    layer = {"kernel": kernel_FK, "bias": np.log(share_K / (1 - share_K)).astype(np.float32)}
    rng = np.random.default_rng(encoder.train_seed)

    def batches() -> Iterator[dict[str, NDArray]]:
        total = round(optim.epochs * steps)
        order = np.concatenate([rng.permutation(len(split))[: steps * size] for _ in range(-(-total // steps))])
        for rows in Bar(order[: total * size].reshape(total, size), desc="fine-tuning", unit="step"):
            ecg_bTL, lead_mask_bL = everyone.read(rows)
            yield {"ecg": ecg_bTL, "lead_mask": lead_mask_bL, "y": y_NK[rows]}

    train = Training(encoder, layer, optimizer, AUGMENT, shards.fs, optim.ema, jax.devices())
    for batch in batches():
        train(batch)
    return train.result()


def _width(encoder: Encoder, records: Labelled) -> int:
    """Width F of the encoder's features."""
    batch = records.read(np.arange(1))
    return jax.eval_shape(
        lambda *batch: encoder.model.apply(encoder.variables, *batch, method="encode_ecg")[0], *batch
    ).shape[1]


class Training:
    """The ECG tower of an encoder and a linear layer, trained batch by batch."""

    def __init__(
        self,
        encoder: Encoder,
        layer: Tree,
        optimizer: optax.GradientTransformation,
        augmentation: AugmentConfig,
        fs: int,
        ema: float,
        devices: Sequence[Any],
    ) -> None:
        """Starts from the encoder's weights and the given layer; each batch is divided among the devices."""
        self._parallel, self._run_dir = Parallel("pmap", devices), encoder.run_dir
        params = {"ecg_tower": encoder.variables["params"]["ecg_tower"], "layer": layer}
        params, batch_stats = jax.tree.map(jnp.array, (params, encoder.variables["batch_stats"]))
        state = TrainState(
            jnp.zeros((), jnp.int32), params, batch_stats, optimizer.init(params), jax.tree.map(jnp.copy, params)
        )
        self._state = self._parallel.replicate(state)
        step = _make_step(encoder, optimizer, augmentation, fs, ema)
        self._step: Callable[..., Any] = self._parallel.wrap_train_step(step)
        self._loss: Any = None

    def __call__(self, batch: dict[str, NDArray]) -> None:
        """Makes one training step; `batch` holds "ecg", "lead_mask" and "y" [b, K]."""
        batch["position"] = np.arange(len(batch["y"]), dtype=np.int32)
        before = self._loss
        self._state, self._loss = self._step(self._state, self._parallel.put_batch(batch), {})
        jax.block_until_ready(before)  # see `parallel`: virtual devices must not run a step ahead

    def result(self) -> Tree:
        """Returns {"params" (their moving average), "batch_stats"} as NumPy arrays.

        Raises:
          EtpError: the loss of the last step is not finite.
        """
        if not np.isfinite(np.asarray(self._loss)).all():
            raise EtpError(f"{self._run_dir}: the loss of fine-tuning is not finite; check the run and the records")
        state = jax.device_get(self._state)
        return {"params": state.ema, "batch_stats": state.batch_stats}


def _make_step(
    encoder: Encoder, optimizer: optax.GradientTransformation, augmentation: AugmentConfig, fs: int, ema: float
) -> Callable[..., tuple[TrainState, jax.Array]]:
    """Creates a training step for `Parallel.wrap_train_step`."""
    # A trained text tower is excluded; otherwise the compiled program would contain it as a constant.
    fixed = {name: tree for name, tree in encoder.variables["params"].items() if name != "text_tower"}
    model = encoder.model.clone(bert=None)

    def step(state: TrainState, batch: dict[str, jax.Array], _: Tree) -> tuple[TrainState, jax.Array]:
        augment_keys, dropout_keys = example_keys(encoder.train_seed, state.step, batch["position"])
        ecg_bTL, lead_mask_bL = augment(batch["ecg"], batch["lead_mask"], augment_keys, augmentation, fs)

        def loss_of(params: Tree) -> tuple[jax.Array, Tree]:
            variables = {"params": fixed | {"ecg_tower": params["ecg_tower"]}, "batch_stats": state.batch_stats}
            (features_bF, _), updated = model.apply(
                variables, ecg_bTL, lead_mask_bL, True, dropout_keys, method="encode_ecg", mutable=["batch_stats"]
            )
            logits_bK = features_bF @ params["layer"]["kernel"] + params["layer"]["bias"]
            loss = optax.sigmoid_binary_cross_entropy(logits_bK, batch["y"]).mean()
            return jax.lax.pmean(loss, AXIS), updated.get("batch_stats", {})

        (loss, batch_stats), grads = jax.value_and_grad(loss_of, has_aux=True)(state.params)
        updates, opt_state = optimizer.update(jax.lax.pmean(grads, AXIS), state.opt_state, state.params)
        params: Tree = optax.apply_updates(state.params, updates)
        averaged = average(state.ema, params, ema, state.step)
        return TrainState(state.step + 1, params, batch_stats, opt_state, averaged), loss

    return step


def fit_as_published(encoder: Encoder, fitted: Labelled, y_nC: NDArray[np.bool_], target: Labelled) -> merl.Scores:
    """Trains the whole network like MERL's documented command; yields the scores of the target after each epoch."""
    layer = merl.initial_layer(_width(encoder, fitted), y_nC.shape[1])
    fs = fitted.splits[0].shards.fs
    # One device, as published: batch statistics are over 16 records, and the last batch may be short.
    train = Training(encoder, layer, merl.optimizer(), AugmentConfig(), fs, 0.0, jax.local_devices()[:1])
    for rows_SB, counts_SB in merl.batches(len(y_nC)):
        for rows, counts in zip(rows_SB, counts_SB, strict=True):
            rows = rows[counts > 0]
            ecg_bTL, lead_mask_bL = fitted.read(rows)
            train({"ecg": ecg_bTL, "lead_mask": lead_mask_bL, "y": y_nC[rows].astype(np.float32)})
        tree = train.result()
        variables = _variables(encoder, tree)
        parts = [
            encode_ecg(encoder.model, variables, *target.read(np.arange(start, min(start + BATCH, len(target)))))[0]
            for start in range(0, len(target), BATCH)
        ]
        yield np.concatenate(parts) @ tree["params"]["layer"]["kernel"] + tree["params"]["layer"]["bias"]
