"""Drawings and pages: charts, ECG paper, and the report of a run."""
