"""Does finer labeling make imbalance hurt less? The same images under coarse and fine labels."""
