from foldcore.testing import Setting, conformance

test_conformance = conformance(
    "highs",
    settings={"rtol": Setting(1e-3, given={"method": "ipm"}, problem="LP")},
    effects={"mip_rel_gap": "test_integers.py, on problems with integer variables"},
)
