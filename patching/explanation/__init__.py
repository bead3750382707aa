"""Which words of a prompt made the model prefer one next word over another?"""
