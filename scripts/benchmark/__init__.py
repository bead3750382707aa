"""The benchmark of the sweep: what is measured, how, and the report."""
