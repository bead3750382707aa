"""The command lines: one file each, and what they share in common.py, output.py and tables.py."""
