"""Checkpoints or endpoints to scores and regression verdicts."""
