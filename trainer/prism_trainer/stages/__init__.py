"""The three stages, each a program of iterations, and the loop that runs any of them."""
