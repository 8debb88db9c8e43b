"""`python -m orchestrator`: the same as the command `halve`."""

from orchestrator.cli import main

main()
