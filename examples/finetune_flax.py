"""Fine-tunes the shipped ECG encoder on one label with Flax and optax: `python examples/finetune_flax.py SHARDS`."""

import argparse

import jax
import numpy as np
import optax
from flax import linen as nn

import etp_jax
from etp_jax.shards.reader import Shards

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("shards")
parser.add_argument("--label", default="NORM")
parser.add_argument("--steps", type=int, default=50)
args = parser.parse_args()
model, shards = etp_jax.load(), Shards(args.shards)
train, validation = shards.split("train"), shards.split("validation")
y_N, y_n = (np.array([args.label in labels for labels in split.columns.labels]) for split in (train, validation))


class Classifier(nn.Module):
    """The encoder's features and a linear layer: one logit an ECG."""

    encoder: nn.Module

    @nn.compact
    def __call__(self, ecg_BTL, lead_mask_BL, train=False):
        features_BF, _ = self.encoder(ecg_BTL, lead_mask_BL, train)
        return nn.Dense(1, name="head")(features_BF)[:, 0]


classifier, optimizer = Classifier(model.module), optax.adamw(3e-4)
drawn = classifier.init(jax.random.key(0), train.ecg(np.arange(1)), train.columns.lead_mask[:1])
params = {"encoder": model.variables["params"], "head": drawn["params"]["head"]}
stats, state = {"encoder": model.variables["batch_stats"]}, optimizer.init(params)


@jax.jit
def step(params, stats, state, y_B, *ecg_and_mask):
    """One update of encoder, head and batch statistics."""

    def loss(params):
        variables = {"params": params, "batch_stats": stats}
        logits_B, updated = classifier.apply(variables, *ecg_and_mask, train=True, mutable=["batch_stats"])
        return optax.sigmoid_binary_cross_entropy(logits_B, y_B).mean(), updated["batch_stats"]

    gradient, stats_now = jax.grad(loss, has_aux=True)(params)
    updates, state = optimizer.update(gradient, state, params)
    return optax.apply_updates(params, updates), stats_now, state


for number in range(args.steps):
    rows = np.random.default_rng(number).choice(len(train), 32)
    params, stats, state = step(params, stats, state, y_N[rows], train.ecg(rows), train.columns.lead_mask[rows])
inputs = validation.ecg(np.arange(len(validation))), validation.columns.lead_mask
scores_n = np.array(classifier.apply({"params": params, "batch_stats": stats}, *inputs))
auroc = (scores_n[y_n, None] > scores_n[~y_n]).mean()
print(f"{args.label}: AUROC {auroc:.3f} on {len(y_n)} validation records after {args.steps} steps")
