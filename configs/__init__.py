"""Recipes: one file, one `config = TrainConfig(...)`."""
