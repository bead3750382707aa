"""The numbers of sweep/loop.py, fast: all patched runs in one pass through the blocks."""
