"""Checkpoints that stand in for Harrier's own weights."""
