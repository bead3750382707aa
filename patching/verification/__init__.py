"""mingpt-verify: compare what a model computes with published figures and with identities."""
