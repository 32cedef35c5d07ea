"""What a trained classifier takes images for: pictures in, names and probabilities out; no data set, no labels."""
