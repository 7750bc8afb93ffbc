"""FG-CLEP (arXiv 2505.11939): trained coarse on the reports, then fine on reports with restored waveform features.

This recipe implements v1 (May 2025), which compares whole records. Where v1 is not specific, values follow FOCAL, the
official code of the paper's third version, and are marked "FOCAL". "Unknown" marks values that are our choice. Tag-wise
embeddings and optimal transport (v2, FOCAL) are left out. The fine stage needs shards from `etp waveform restore`, and
the coarse run as `--start-from`.
"""

from dataclasses import replace

from etp_jax import config as c

coarse = c.TrainConfig(
    data=c.DataConfig(
        batch_size=800,  # FOCAL: 100 on each of 8 GPUs
    ),
    augment=c.AugmentConfig(),  # none is described
    model=c.ModelConfig(
        ecg=c.ResNetConfig(
            # Unknown; FOCAL's tower is `--model.ecg.kind vit`
            depth=18,
            stem="conv",  # unknown
            pool="mean",  # unknown
            scale="millivolt",  # unknown
        ),
        text=c.TextTowerConfig(
            pretrained="emilyalsentzer/Bio_ClinicalBERT",  # FOCAL
            trainable="encoder/layer/(9|10|11)/.*",  # FOCAL: the first 9 layers are frozen
            pool="cls",  # unknown
            max_tokens=128,  # unknown; FOCAL's 64 is for a single tag
        ),
        embedding_dim=256,  # FOCAL
        projection="linear",  # unknown
    ),
    loss=c.LossConfig(
        pairs="semantic",  # S = (1 + cosine of the text embeddings) / 2, without gradient: FOCAL
        semantic_from="batch",  # FOCAL
        score="sigmoid",
        bias=None,  # FOCAL
        temperature=0.1,  # FOCAL: the logit scale starts at 10
        fnm_weight=0.0,  # v1 adds the term L_fnm to its loss; its weight is unknown
    ),
    optim=c.OptimConfig(
        name="adamw",  # FOCAL, as all below
        learning_rate=2e-5,
        weight_decay=1e-4,
        epochs=10.0,
        schedule="cosine",
        warmup_epochs=1.0,  # 10 %
    ),
)

fine = replace(
    coarse,
    start_from="NAME-THE-COARSE-RUN",  # an empty value would silently train from scratch
    data=replace(coarse.data, restored_share=1.0),  # every report has its restored features
    optim=replace(coarse.optim, epochs=3.0, warmup_epochs=0.3),  # FOCAL
)

config = coarse
stages = {"coarse": coarse, "fine": fine}
