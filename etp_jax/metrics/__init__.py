"""Metrics of classification and retrieval, computed from scores and embeddings. Uses numpy only."""
