"""Discover: a language model or a taxonomy names auxiliary categories for every target class."""
