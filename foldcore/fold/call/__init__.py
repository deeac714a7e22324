"""One call of a layer: its arguments, and what becomes of each sample."""
