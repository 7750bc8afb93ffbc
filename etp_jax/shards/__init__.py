"""Shard folders: their record format, reading, writing and checking. Imports neither jax nor TensorFlow."""
