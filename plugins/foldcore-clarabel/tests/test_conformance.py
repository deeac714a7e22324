from foldcore.testing import conformance

test_conformance = conformance(
    "clarabel",
    effects={
        "accept": "test_clarabel.py, on points where rounding ends progress",
        "threads": "test_clarabel.py; it changes how faer works, not what it finds",
    },
)
