"""Recipes that come with fastlt, found by name: `fastlt train demo/species`."""
