"""Filter: which crawled images look like the targets and repeat no validation or test image."""
