"""The command `etp`: arguments, and what is printed. All work is done by the other rooms."""
