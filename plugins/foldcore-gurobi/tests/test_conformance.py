from foldcore.testing import conformance

test_conformance = conformance("gurobi", settings={"parameters": {"Method": 0}})
