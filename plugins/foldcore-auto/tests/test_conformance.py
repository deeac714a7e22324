from foldcore_auto import AutoConfig

from foldcore.testing import conformance

OBSERVED = dict.fromkeys(AutoConfig.model_fields, "test_conformance observes it from the defaults")

test_conformance = conformance("auto")
test_conformance_unprobed = conformance("auto", config={"check_unique": False}, effects=OBSERVED)
test_conformance_gmres = conformance("auto", config={"contraction_steps": 0, "restart": 3})
test_conformance_dense = conformance("auto", config={"max_iter": 1}, effects=OBSERVED)
