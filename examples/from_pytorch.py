"""Runs the encoder without JAX, by onnxruntime: `python examples/from_pytorch.py [ENCODER_FOLDER]`.

The folder comes from `etp export --onnx`. Without one, the shipped encoder is written as ONNX first (extra `onnx`).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import onnxruntime


def onnx_file() -> Path:
    """The file of the folder that is named, or of the shipped encoder."""
    if len(sys.argv) > 1:
        return Path(sys.argv[1]) / "encoder.onnx"
    import etp_jax
    from etp_jax.encoder.onnx import save_onnx

    folder = Path(tempfile.mkdtemp())
    save_onnx(folder, etp_jax.load().encoder)
    return folder / "encoder.onnx"


session = onnxruntime.InferenceSession(onnx_file())
ecg = np.random.default_rng(0).normal(0, 0.2, (4, 1000, 12)).astype(np.float32)  # [batch, time, lead] in mV at 100 Hz
mask = np.ones((4, 12), bool)  # false for leads that were not recorded
try:
    import torch

    ecg, mask = torch.from_numpy(ecg).numpy(), torch.from_numpy(mask).numpy()  # a batch of your own DataLoader
    framework = f"torch {torch.__version__}"
except ImportError:
    framework = "numpy"
features, embedding = session.run(["features", "embedding"], {"ecg": ecg, "lead_mask": mask})
print(
    f"{framework}: features {features.shape}, embeddings {embedding.shape}, length {np.linalg.norm(embedding[0]):.3f}"
)
