"""Dumps of metadata as they are published: their tables out of core, and which taxon a name means in them."""
