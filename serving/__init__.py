"""Checkpoint to quantized checkpoint to HTTP endpoint."""
