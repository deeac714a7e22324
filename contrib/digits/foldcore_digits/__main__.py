"""``python -m foldcore_digits``."""

from .cli import main

if __name__ == "__main__":
    main()
