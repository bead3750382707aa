"""What does the model say next, as text?"""
