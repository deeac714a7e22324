"""Batched numbers: products, linear solves, eigenvalues, sparse matrices. Knows no problem."""
