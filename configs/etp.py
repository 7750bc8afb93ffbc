"""ETP (arXiv 2309.07145, ICASSP 2024): both towers trained, symmetric InfoNCE on each ECG's own report.

There is no official code. "Unknown" marks what the accessible descriptions of the paper do not specify; the value next
to it is our choice. Values from its section 3.2 were taken from a third party's configuration.
"""

from etp_jax import config as c

config = c.TrainConfig(
    data=c.DataConfig(
        batch_size=128,  # section 3.2
    ),
    augment=c.AugmentConfig(),  # unknown; none
    model=c.ModelConfig(
        ecg=c.ResNetConfig(
            depth=18,  # ResNet18-1D, section 3.2
            stem="conv",  # unknown; as in MERL's code, which has traces of ETP's
            pool="mean",  # unknown
            scale="millivolt",  # unknown
        ),
        text=c.TextTowerConfig(
            pretrained="emilyalsentzer/Bio_ClinicalBERT",  # BioClinicalBERT
            frozen=False,  # unknown; trained, as in our table of recipes
            pool="cls",  # unknown
            max_tokens=128,  # unknown
        ),
        embedding_dim=128,  # unknown
        projection="linear",  # unknown
    ),
    loss=c.LossConfig(
        pairs="own",  # symmetric InfoNCE
        score="softmax",
        temperature=0.07,  # unknown; CLIP's
        learn_temperature=True,  # unknown
    ),
    optim=c.OptimConfig(
        name="adam",  # unknown
        learning_rate=2e-3,  # section 3.2
        # unknown; FG-CLEP's. At 2e-3 MiniLM gives all reports of PTB-XL the same embedding: the loss stays at ln 128
        text_learning_rate=2e-5,
        weight_decay=1e-5,  # section 3.2
        epochs=50.0,  # unknown
        schedule="constant",  # unknown
        warmup_epochs=0.0,  # unknown
    ),
)
