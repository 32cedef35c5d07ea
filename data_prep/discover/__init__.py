"""Discover: a language model names auxiliary categories for every target class."""
