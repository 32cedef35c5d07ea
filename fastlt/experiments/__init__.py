"""Experiments of many runs: they start the trainer as a user would, and know nothing of its inside."""
