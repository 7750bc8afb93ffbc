"""`etp reproduce`: a study's runs trained or reused, evaluated, and put into one table with intervals."""

from etp_jax.reproduce.run import reproduce

__all__ = ["reproduce"]
