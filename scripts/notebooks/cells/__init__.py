"""The cells of the notebooks, one file each."""
