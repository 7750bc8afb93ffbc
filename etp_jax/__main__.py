"""`python -m etp_jax` is `etp`."""

from etp_jax.cli.main import main

main()
