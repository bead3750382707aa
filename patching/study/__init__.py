"""Studies: many pairs of prompts, the mean over them, and how sure it is."""
