"""`etp predict`: computes findings for single ECGs."""
