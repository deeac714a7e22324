"""A plugin under test, and what it is tested with."""
