"""METS (arXiv 2303.12311, MIDL 2023): frozen ClinicalBERT, trained ResNet1d-18, InfoNCE on each ECG's own report.

Section numbers are not given, because the description of the method and the implementation details span several
sections. "Unknown" marks what the paper does not specify; the value next to it is our choice.
"""

from etp_jax import config as c

config = c.TrainConfig(
    data=c.DataConfig(
        batch_size=32,  # implementation details
    ),
    augment=c.AugmentConfig(),  # none is described
    model=c.ModelConfig(
        ecg=c.ResNetConfig(
            depth=18,  # ResNet1d-18
            stem="conv",  # unknown
            pool="mean",  # unknown
            scale="millivolt",  # unknown
        ),
        text=c.TextTowerConfig(
            pretrained="emilyalsentzer/Bio_ClinicalBERT",  # ClinicalBERT of Alsentzer et al. 2019
            frozen=True,  # "frozen language model"
            pool="cls",  # unknown
            max_tokens=128,  # unknown
            template="The report of the ECG is that {report}",
        ),
        embedding_dim=128,  # a linear head on each side, to 128
        projection="linear",
    ),
    loss=c.LossConfig(
        pairs="own",  # mean of ECG-to-text and text-to-ECG
        score="softmax",
        temperature=0.07,  # at the start
        learn_temperature=True,
    ),
    optim=c.OptimConfig(
        name="adam",
        learning_rate=1e-3,
        weight_decay=1e-3,
        epochs=50.0,
        schedule="constant",  # none is stated
        warmup_epochs=0.0,  # none is stated
    ),
)
