"""Reinforcement-learning runs: our own algorithms, and TRL's."""
