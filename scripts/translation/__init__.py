"""English-Spanish pairs of our own, and a small model that translates them."""
