"""The conformance kit: everything foldcore asks of a plugin."""

from __future__ import annotations

from foldcore.testing import conformance

test_conformance = conformance("example")
