"""The checks of the conformance kit, each tied to a clause of the contract."""
