"""Images from a WebDataset tar through DALI, on the CPU or the GPU."""
