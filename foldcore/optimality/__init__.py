"""Conditions at a point, measured from the problem's data alone: certificate, multipliers, active set."""
