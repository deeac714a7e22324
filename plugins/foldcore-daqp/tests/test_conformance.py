from foldcore.testing import conformance

test_conformance = conformance(
    "daqp",
    effects={"time_limit": "DAQP looks at it every 32 iterations; test_daqp.py solves longer ones"},
)
