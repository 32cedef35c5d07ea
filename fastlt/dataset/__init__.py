"""The encoded data set: its images, its manifest, and one module for each format."""
