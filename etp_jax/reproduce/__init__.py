"""`etp reproduce`: trains or reuses the runs of a study, evaluates them, and writes one table with intervals."""

from etp_jax.reproduce.run import reproduce

__all__ = ["reproduce"]
