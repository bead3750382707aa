"""Continue prompts with a model: what does it say next?"""
