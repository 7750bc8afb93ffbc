"""The shard folder: its records, reading, writing and checking. No jax, no TensorFlow."""
