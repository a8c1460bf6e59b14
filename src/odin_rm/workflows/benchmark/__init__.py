"""Reward-model benchmarks from their published files."""
