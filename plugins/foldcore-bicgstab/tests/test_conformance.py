from foldcore.testing import conformance

EFFECTS = {"restarts": "test_bicgstab.py, on systems whose shadow vector breaks down"}

test_conformance = conformance("bicgstab", effects=EFFECTS)
test_conformance_one_restart = conformance("bicgstab", config={"restarts": 1}, effects=EFFECTS)
