"""The layer: forward pass, one call's bookkeeping, backward pass."""
