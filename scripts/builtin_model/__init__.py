"""Make the shipped model: its sentences, its training, its measurement."""
