"""The certificate of a reward model: verdicts from its audit, its probe and its best-of-N."""
