"""What a model's embeddings say: positions that are alike, words that are near; see README.md."""
