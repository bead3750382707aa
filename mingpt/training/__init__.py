"""Train a model on a text or on pairs of sentences; see README.md."""
