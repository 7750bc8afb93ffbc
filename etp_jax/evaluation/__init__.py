"""What an encoder learned: zero-shot classification, linear probes, retrieval; `report.html`."""

from etp_jax.evaluation.evaluate import run

__all__ = ["run"]
