"""Conversion of raw archives to shards. Uses wfdb and pandas; never imports jax."""
