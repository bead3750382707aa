"""Shared by the commands: error handling, options, bars, models, output, tables."""
