"""Recipe for two CPU cores: a narrow ResNet18-1D and a small BERT from scratch, on the synthetic archive."""

from etp_jax import config as c

config = c.TrainConfig(
    data=c.DataConfig(batch_size=64),
    augment=c.AugmentConfig(time_shift_s=0.5),
    model=c.ModelConfig(
        ecg=c.ResNetConfig(width=16, stem="conv-pool"),
        # The vocabulary is trained on the reports themselves.
        text=c.TextTowerConfig(pretrained=None, layers=1, hidden=128, heads=4, pool="mean", max_tokens=64),
    ),
    loss=c.LossConfig(pairs="equal-masked"),
    optim=c.OptimConfig(name="adamw", learning_rate=2e-3, weight_decay=0.01, epochs=12.0, warmup_epochs=1.0),
    run=c.RunConfig(log_every=5, best="loss"),
)
