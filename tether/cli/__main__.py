"""`python -m tether.cli`, for where no console script is installed."""

from tether.cli.app import main

main()
