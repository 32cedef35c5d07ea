"""`fastlt doctor`: what of fastlt works on this machine, really tried, and what to type where something does not."""
