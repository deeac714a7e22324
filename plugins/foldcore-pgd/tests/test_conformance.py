from foldcore.testing import conformance

test_conformance = conformance("pgd")
