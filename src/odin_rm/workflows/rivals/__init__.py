"""Objectives beside each other on the same features, folds and data order."""
