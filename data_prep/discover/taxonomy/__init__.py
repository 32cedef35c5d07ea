"""Neighbors without a language model: siblings of the target classes in a taxonomy."""
