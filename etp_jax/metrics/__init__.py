"""Figures computed from scores: classification and retrieval. numpy only."""
