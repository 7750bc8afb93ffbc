"""Readers of archives: one module per archive, each of which returns an `Archive` of `ArchiveRecord`s."""
