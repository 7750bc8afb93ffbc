"""One module an archive; each yields `ArchiveRecord` records."""
