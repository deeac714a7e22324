"""The kit itself: excuses, arguments, reports, and the references that its checks rest on."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field

import foldcore as fc
from foldcore.program.lowering import Lowering
from foldcore.solvers.iterate import IterateConfig, IterateSolver
from foldcore.testing import (
    Kind,
    Outcome,
    Setting,
    all_checks,
    conformance,
    iter_conformance,
    markdown_table,
    run_conformance,
)
from foldcore.testing.kit.planning import plan
from foldcore.testing.problems.exact_gradients import exact_gradients, has_exact_gradients
from foldcore.testing.problems.exact_qp import solve_exactly
from foldcore.testing.problems.failing_problems import failing_problems
from foldcore.testing.problems.known_problem import KnownProblem
from foldcore.testing.problems.known_problems import known_problems, smallest_problems
from foldcore.testing.reference import QPReference

KNOWN = (*known_problems(), *smallest_problems())
CONTRACT = Path(__file__).parents[2] / "docs" / "contract.md"


def refuse(program: fc.SmoothProgram) -> fc.Solution:
    raise ValueError("not today")


class Raises(IterateSolver):
    """A solver that raises."""

    def __init__(self, config: IterateConfig) -> None:
        raise ValueError("not today")


class QuietConfig(IterateConfig):
    """Options, one of which no answer shows."""

    threads: int = Field(1, ge=1, description="Threads (count).")


class Quiet(IterateSolver):
    """A solver with an option that no answer shows."""

    config_class = QuietConfig


def outcome(plugin: object, check: str, **given: Any) -> Outcome:
    (result,) = run_conformance(plugin, only=[check], **given).results
    return result.outcome


def test_an_excuse_turns_a_failure_into_an_expected_one_and_goes_stale() -> None:
    excuse = {"check_kkt": "it is a bad one"}
    assert outcome(Raises, "check_kkt") is Outcome.FAILED
    assert outcome(Raises, "check_kkt", expected_failures=excuse) is Outcome.EXPECTED
    assert outcome("iterate", "check_kkt") is Outcome.PASSED
    stale = run_conformance("iterate", only=["check_kkt"], expected_failures=excuse)
    assert stale.results[0].outcome is Outcome.STALE
    assert not stale.ok


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"expected_failures": {"check_bath": "x"}}, "Did you mean 'check_batch'"),
        ({"expected_failures": {"check_batch": " "}}, "gives no reason"),
        ({"expected_failures": {"check_gradients": "x"}}, "does not apply"),
        ({"effects": {"thread": "x"}}, "no field of IterateConfig"),
        ({"effects": {"rtol": ""}}, "gives no reason"),
        ({"settings": {"tol": 1}}, "no field of IterateConfig"),
        ({"kind": "adjont"}, "possible: solver, rule, adjoint"),
    ],
)
def test_wrong_arguments_fail_when_the_file_is_collected(given: dict[str, Any], words: str) -> None:
    with pytest.raises(fc.ConfigError, match=re.escape(words)):
        conformance("iterate", **given)


def test_a_name_that_is_no_plugin_is_an_error_with_a_hint() -> None:
    with pytest.raises(fc.UnknownPluginError, match="Did you mean 'iterate'"):
        run_conformance("itarate")
    with pytest.raises(fc.UnknownPluginError):
        run_conformance("iterate", kind="adjoint")
    with pytest.raises(fc.ConfigError, match="expected a registered name"):
        run_conformance(refuse)


def cases(function: Callable[..., None]) -> dict[str, Any]:
    (mark,) = function.pytestmark  # type: ignore[attr-defined]
    return {case.id: case for case in mark.args[1]}


def test_pytest_gets_one_case_per_check_and_strict_excuses() -> None:
    found = cases(conformance(Raises, expected_failures={"check_kkt": "it is a bad one"}))
    applicable = {one.check.id for one in plan(Raises) if one.outcome is not Outcome.NOT_APPLICABLE}
    assert set(found) == applicable
    (mark,) = found["solver.check_kkt"].marks
    assert mark.name == "xfail"
    assert mark.kwargs["strict"]
    assert found["solver.check_batch"].marks == []


def test_required_checks_apply_to_every_plugin_that_is_installed() -> None:
    left_out = {
        result.check.name: result.message
        for result in run_conformance("iterate", only=["check_loads", "check_config"]).results
        if result.outcome is Outcome.NOT_APPLICABLE
    }
    assert left_out == {}
    for check in all_checks():
        assert check.required == (check.condition == ""), check.id
        assert 0 <= check.clause <= 11, check.id
        assert check.summary, check.id
    assert len({check.id for check in all_checks()}) == len(all_checks())


def test_results_come_one_by_one_with_seconds() -> None:
    results = iter_conformance("iterate", only=["check_kkt", "check_batch"])
    first = next(results)
    assert first.check.name == "check_kkt"
    assert first.seconds > 0
    report = run_conformance("iterate", only=["check_kkt", "check_batch"])
    assert report.ok
    assert "iterate: 2 passed" in report.lines()[-1]


def test_an_instance_brings_its_own_config() -> None:
    hasty = IterateSolver(IterateConfig(max_iter=1))
    assert outcome(IterateSolver, "check_kkt") is Outcome.PASSED
    assert outcome(hasty, "check_kkt") is Outcome.FAILED
    assert outcome(IterateSolver, "check_kkt", config={"max_iter": 1}) is Outcome.FAILED


def test_effects_tested_elsewhere_are_listed_and_settings_decide_what_is_tried() -> None:
    assert outcome(Quiet, "check_settings") is Outcome.FAILED
    elsewhere = {"threads": "test_threads.py"}
    (result,) = run_conformance(Quiet, only=["check_settings"], effects=elsewhere).results
    assert result.outcome is Outcome.PASSED
    assert "test_threads.py" in " ".join(result.notes)
    silent = {"rtol": Setting(1e-9, given={"max_iter": 1})}
    (result,) = run_conformance(Quiet, only=["check_settings"], settings=silent).results
    assert "rtol (tried 1e-09)" in result.message


def test_the_kit_runs_without_pytest() -> None:
    script = "import sys, foldcore.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_the_contract_names_every_check_under_its_clause() -> None:
    sections = re.split(r"^## (\d+)\.", CONTRACT.read_text(), flags=re.MULTILINE)
    texts = {0: sections[0], **{int(n): t for n, t in zip(sections[1::2], sections[2::2])}}  # noqa: B905
    missing = [c.id for c in all_checks() if f"`{c.name}`" not in texts[c.clause]]
    assert missing == []
    named = {name for text in texts.values() for name in re.findall(r"`(check_\w+)`", text)}
    assert named == {check.name for check in all_checks()}
    assert all(f"`{check.name}`" in markdown_table() for check in all_checks())


@pytest.mark.parametrize("known", KNOWN, ids=lambda known: known.name)
def test_known_solutions_are_solutions_and_strictly_complementary(known: KnownProblem) -> None:
    x = Lowering(known.bind()).complete(known.primal)
    report, _ = fc.kkt_report(known.lowered(), x, known.duals)
    assert report.residual.max() < 1e-14
    assert has_exact_gradients(known) == (not bool(report.margin.isnan().any()))
    if has_exact_gradients(known):
        assert report.margin.min() > 5e-3


def plain_qp(known: KnownProblem) -> bool:
    """Whether the reference knows the problem: an LP or QP with finite data."""
    fields = {"P", "q", "A", "b", "G", "h", "lower", "upper"}
    finite = all(bool(value.isfinite().all()) for value in known.values.values())
    return set(known.values) <= fields and known.unique and finite


@pytest.mark.parametrize("known", list(filter(plain_qp, KNOWN)), ids=lambda known: known.name)
def test_exact_gradients_are_those_of_the_independent_reference(known: KnownProblem) -> None:
    cotangent = torch.ones_like(known.primal).cumsum(-1)
    found = exact_gradients(known, cotangent)
    constants = {name: known.problem.constants[name] for name in known.problem.constants}
    for i in range(known.batch):
        data = {name: value[i].numpy() for name, value in known.values.items()}
        data |= {name: value.numpy() for name, value in constants.items()}
        expected = QPReference.from_guess(data, known.primal[i].numpy()).gradients(
            cotangent[i].numpy()
        )
        for name in known.values:
            np.testing.assert_allclose(found[name][i].numpy(), expected[name], atol=1e-11)


def test_the_exact_solver_finds_known_solutions_and_names_failures() -> None:
    for known in KNOWN:
        structure = known.problem.structure
        if structure.problem_class is not fc.ProblemClass.QP or structure.has_regularizers:
            continue
        found = solve_exactly(known.bind())
        assert found.failed == ()
        torch.testing.assert_close(found.primal, known.primal, rtol=0, atol=1e-12)
    failing = {one.name: one for one in failing_problems()}
    infeasible = solve_exactly(failing["infeasible QP"].bind(failing=True)).status
    assert infeasible == (fc.Status.OPTIMAL, fc.Status.INFEASIBLE, fc.Status.OPTIMAL)
    flat = solve_exactly(failing["unbounded QP"].bind(failing=True)).status
    assert flat == (fc.Status.OPTIMAL, fc.Status.NONCONVEX, fc.Status.OPTIMAL)


def test_every_kind_has_checks() -> None:
    assert {check.kind for check in all_checks()} == set(Kind)
