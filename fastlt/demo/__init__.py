"""The demo: the whole path on drawn species, offline."""
