"""Tokens, instructions and preferences to checkpoints and adapters. Ray only in launch.py."""
