from foldcore.testing import conformance

test_conformance = conformance(
    "qpth", effects={"check_rtol": "test_qpth.py, on problems that qpth gets wrong"}
)
