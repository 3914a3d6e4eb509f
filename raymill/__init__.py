"""The front door: the `raymill` command and recipes."""
