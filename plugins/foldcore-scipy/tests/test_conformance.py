from foldcore.testing import Setting, conformance

test_conformance = conformance(
    "scipy", settings={"seed": Setting(3, given={"restarts": 2}, problem="nonconvex QP")}
)
