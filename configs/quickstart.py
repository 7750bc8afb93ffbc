"""Small enough for two CPU cores: a slim ResNet18-1D and a small BERT from scratch, on the synthetic archive."""

from etp_jax.config import (
    AugmentConfig,
    DataConfig,
    EcgTowerConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TextTowerConfig,
    TrainConfig,
)

config = TrainConfig(
    data=DataConfig(batch_size=64),
    augment=AugmentConfig(time_shift_s=0.5),
    model=ModelConfig(
        ecg=EcgTowerConfig(width=16, stem="conv-pool"),
        # The vocabulary is trained on the reports themselves.
        text=TextTowerConfig(pretrained=None, layers=1, hidden=128, heads=4, pool="mean", max_tokens=64),
    ),
    loss=LossConfig(pairs="equal-masked"),
    optim=OptimConfig(name="adamw", learning_rate=2e-3, weight_decay=0.01, epochs=12.0, warmup_epochs=1.0),
    run=RunConfig(log_every=5, best="loss"),
)
