"""One module an archive; each yields `Study` records."""
