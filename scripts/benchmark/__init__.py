"""Benchmark the sweep: experiments, methods, timing, floor and report."""
