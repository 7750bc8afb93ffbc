"""A synthetic archive in PTB-XL's layout: simulated heart beats, reports and their codes."""
