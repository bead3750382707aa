"""The maker of the shipped model."""
