"""The mixture-of-experts discriminator: upcycling, routing, scores and their training."""
