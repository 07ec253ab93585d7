"""What runs beside and inside a vLLM server: the token's guard, weight updates, CPU repairs."""
