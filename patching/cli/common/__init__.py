"""What every command shares: its edge, options, bars, models, tables."""
