from foldcore.testing import conformance

test_conformance = conformance("direct")
test_conformance_unrefined = conformance("direct", config={"refine": 0})
