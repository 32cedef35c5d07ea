"""Review: a page on this machine on which a person sees what the stages chose, and decides otherwise."""
