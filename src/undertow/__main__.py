"""``python -m undertow``: the command line."""

from undertow.cli.main import main

main()
