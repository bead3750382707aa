"""A name or a path -> a model and its tokenizer: where the files are, and what is in them."""
