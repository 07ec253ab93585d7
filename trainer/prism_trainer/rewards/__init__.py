"""Rewards of the RLVR stage: response format, answer verifier, reward; stdlib only, no torch."""
