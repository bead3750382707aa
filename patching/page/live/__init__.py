"""The live page: a server on this machine that sweeps while one types."""
