"""Errors of a run.

PaperError        printed as one line, without a traceback
CellError         an experiment's own code failed: printed with the traceback
"""


class PaperError(Exception):
    """A run cannot start or go on: a wrong setting, missing data, results of other settings."""


class CellError(Exception):
    """A cell failed. The cells finished before it are kept."""
