"""Training: the loop, the engine, what a checkpoint holds, and what a run tells meanwhile."""
