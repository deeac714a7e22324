from foldcore.testing import conformance

test_conformance = conformance("cg")
test_conformance_normal = conformance("cg", config={"normal": True})
