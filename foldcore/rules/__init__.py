"""Toolkit for update rules: gradient steps, spectra, the Jacobian of one recorded step."""
