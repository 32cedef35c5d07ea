"""Perceptual hashes: how an image gets one, and how those that are alike are found."""
