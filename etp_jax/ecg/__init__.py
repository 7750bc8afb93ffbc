"""One ECG, whatever its source: leads, files, and the preparation of a signal. No jax."""
