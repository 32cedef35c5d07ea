"""The network before the head: a timm model, and weights from any file that fits it."""
