"""The command lines: one file each, and what they share in common.py and report.py."""
