"""`python -m raymill` is the `raymill` command."""

from raymill.cli import main

main()
