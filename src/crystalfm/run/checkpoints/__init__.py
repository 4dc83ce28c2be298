"""Checkpoints: how they are written, what they hold, and how training goes on from them."""
