"""The command lines: one file for each command, and common/ for what they share."""
