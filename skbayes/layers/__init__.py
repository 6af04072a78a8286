"""Variational layers, their divergences and their one objective, and pruning."""
