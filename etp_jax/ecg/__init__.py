"""ECG signals from any source: lead names, file formats and signal preparation. Does not import jax."""
