"""Benchmarks: ratios of GoDrive to simple references, measured on the same machine in the same run."""
