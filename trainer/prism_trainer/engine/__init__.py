"""Packed forward and backward passes: no padding between samples, shared prompts encoded once."""
