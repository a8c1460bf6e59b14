"""Benchmarks before and after training."""
