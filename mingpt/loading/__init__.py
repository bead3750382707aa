"""Find a model's files by name or path, and read them."""
