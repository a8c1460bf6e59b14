"""The cache of tokenised data: its size, and emptying it."""
