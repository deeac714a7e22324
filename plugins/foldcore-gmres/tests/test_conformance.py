from foldcore.testing import conformance

test_conformance = conformance("gmres")
test_conformance_restarted = conformance("gmres", config={"restart": 7})
