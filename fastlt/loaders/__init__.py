"""Batches of images and labels on the device, from any of the formats."""
