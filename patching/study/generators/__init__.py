"""Make pairs of prompts: families of sentences in which one word decides the next."""
