"""Crawl: images of the auxiliary categories, fetched politely into shards."""
