"""The common language of quadratic solvers: data with values bound, and their declaration."""
