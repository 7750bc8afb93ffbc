"""A trained encoder by itself: loading, scoring, calibrating, exporting."""
