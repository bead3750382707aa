"""Compute each kind of published figure with this project's own functions."""
