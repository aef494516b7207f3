"""``python -m chiron``."""

from chiron.cli.app import main

main()
