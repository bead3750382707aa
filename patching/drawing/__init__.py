"""Draw figures from plain values; no sweep, explanation or continuation is imported."""
