"""What the folded layers of a run do, as numbers and as a live table in the terminal."""

from .live import display
from .statistics import FoldStatistics, Statistics
from .table import as_table

__all__ = ["FoldStatistics", "Statistics", "as_table", "display"]
