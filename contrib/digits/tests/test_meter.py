import math

import torch
from foldcore_digits import FoldMeter

from foldcore import AdjointSolution, Solution, Status


def adjoint(residual: float, products: int) -> AdjointSolution:
    return AdjointSolution(
        adjoint=torch.zeros(2, 3),
        residual=torch.tensor([residual, 0.0]),
        iterations=torch.tensor([1, products]),
        converged=torch.tensor([True, True]),
    )


def test_outer_reports_add_up_and_inner_ones_are_left_out():
    meter = FoldMeter()
    solution = Solution(primal=torch.zeros(2, 3), status=(Status.OPTIMAL, Status.OPTIMAL))
    for path, seconds in (("", 1.0), ("rule.inner", 100.0), ("", 2.0)):
        meter.foldcore_solve_finished(path, solution, seconds)
        meter.foldcore_residual_checked(path, torch.tensor([seconds, 0.0]), 2 * seconds)
        meter.foldcore_adjoint_finished(path, adjoint(seconds, int(seconds) + 4), 3 * seconds)
    assert (meter.solve_seconds, meter.fold_seconds, meter.adjoint_seconds) == (3.0, 6.0, 9.0)
    assert (meter.fixed_point_residual, meter.adjoint_residual) == (2.0, 2.0)
    assert (meter.adjoint_products, meter.samples) == (6, 4)


def test_nan_counts_as_the_largest_residual():
    meter = FoldMeter()
    for value in (1.0, math.nan, 2.0):
        meter.foldcore_residual_checked("", torch.tensor([value, 0.5]), 0.0)
    assert math.isnan(meter.fixed_point_residual)
