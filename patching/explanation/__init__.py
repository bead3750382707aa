"""Explain one prediction: which tokens of the prompt favour one next token over another."""
