"""Evaluates an encoder: zero-shot classification, probes, nearest neighbours, fine-tuning, retrieval."""

from etp_jax.evaluation.evaluate import evaluate
from etp_jax.evaluation.kinds import KINDS, Kind
from etp_jax.evaluation.request import Request
from etp_jax.evaluation.results import Result

__all__ = ["KINDS", "Kind", "Request", "Result", "evaluate"]
