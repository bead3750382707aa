"""What each kind of published figure holds, and how this project computes the same."""
