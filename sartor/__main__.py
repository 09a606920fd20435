"""``python -m sartor`` is the command ``sartor``."""

from sartor.cli.app import main

main()
