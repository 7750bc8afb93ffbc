"""Draws charts and ECGs, and writes the report of a run."""
