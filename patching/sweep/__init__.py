"""Activation patching: which vector, put from one run into another, carries the answer?"""
