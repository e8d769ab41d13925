"""Benchmarks whose results are ratios to a floor measured in the same run; `python -m benchmarks` prints them."""
