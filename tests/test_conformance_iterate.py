"""The solver that ships with the core passes the kit."""

from foldcore.testing import conformance

test_conformance = conformance("iterate")
