"""Loads, scores, calibrates and exports a trained encoder."""
