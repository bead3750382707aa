"""The version of the packages."""

__version__ = "0.2.0"
