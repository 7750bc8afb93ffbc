"""What an encoder learned: zero-shot classification, probes, neighbours, fine-tuning, retrieval; `report.html`."""

from etp_jax.evaluation.evaluate import run
from etp_jax.evaluation.results import sensitivity

__all__ = ["run", "sensitivity"]
