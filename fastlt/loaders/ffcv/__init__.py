"""Images from an FFCV file: decoding and augmentation of our own, compiled for the CPU."""
