"""Rewards of the RLVR stage: response format, answer verifier, reward; no torch."""
