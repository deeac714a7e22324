"""Proof that a function of x is a polynomial, and its coefficients."""
