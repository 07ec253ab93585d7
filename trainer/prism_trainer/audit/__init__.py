"""Whether a stage, however often it was interrupted, used every step, prompt and sample once."""
