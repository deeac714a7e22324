from foldcore.testing import conformance

test_conformance = conformance("lfpi")
test_conformance_accelerated = conformance("lfpi", config={"anderson": 4})
