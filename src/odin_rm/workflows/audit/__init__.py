"""The audit of reward models, from a config to its folder."""
