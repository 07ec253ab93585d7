"""Stores: where checkpoints and results live."""
