"""A reward model's training run."""
