"""Toolkit for solver plugins: sessions, one sample at a time, workers, callables."""
