"""One module (or folder) per experiment of the paper."""
