"""Raw archives in, shards out. Knows wfdb and pandas; never imports jax."""
