from foldcore.testing import conformance

test_conformance = conformance(
    "pgd",
    expected_failures={
        "check_failed_sample": "the closed-form projection onto {x: Ax = b} refuses the whole batch "
        "for one sample whose rows of A are dependent"
    },
)
