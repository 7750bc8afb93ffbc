"""`etp predict`: findings of single ECGs."""
