"""The in-process generator: batched decoding with a key-value cache, prompts encoded once per
group."""
