"""Remove: images out of catalog, shards, embeddings and encoded data sets, on request."""
