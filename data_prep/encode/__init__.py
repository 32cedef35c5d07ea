"""Encode: images of classes in, an encoded data set out."""
