"""Errors that the command prints as one line instead of a traceback."""


class PaperError(Exception):
    """A run cannot start or go on: a wrong setting, missing data, results of other settings."""
