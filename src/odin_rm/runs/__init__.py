"""The folder of a run: who owns it, what stands in it, its checkpoints."""
