"""etp-jax: ECG representations from ECGs and their reports, in JAX."""

__version__ = "0.1.0"
