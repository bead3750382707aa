"""The figures. They take plain values and know no wing of the package."""
