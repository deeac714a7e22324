"""From a solution to its gradient: one recorded step, its adjoint, and the modes that unfold."""
