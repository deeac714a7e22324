"""Ctrl-C ends a batch, reaches Python, and leaves a session that works.

A layer keeps its session through an interrupt, so that what holds for a session holds for layers.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext

import osqp
import pytest
import torch
from foldcore_osqp import OSQPConfig, OSQPSolver, interrupts
from torch import Tensor

from foldcore import Solution, Status
from foldcore.testing.problems import declare, random_qp


@pytest.fixture(autouse=True)
def heard_interrupts():
    """Install Python's own handler, which a parent that ignores SIGINT takes away, and put back what was."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


SCRIPT = """
import os, signal, sys, threading, time
import joblib, torch
from foldcore_osqp import OSQPConfig, OSQPSolver
from foldcore.testing.problems import declare, random_qp

WORKERS, BACKEND = int(sys.argv[1]), sys.argv[2]
# A parent that ignores SIGINT (nohup, a job in the background) hands that on to its children.
signal.signal(signal.SIGINT, signal.default_int_handler)


def main():
    torch.set_num_threads(1)
    data = random_qp(0, 100, 20, 50)
    noise = torch.randn(8000, 100, generator=torch.Generator().manual_seed(1)).double()
    q = data["q"] + 0.3 * noise
    problem = declare(data, ["q"])
    opened = lambda: OSQPSolver(OSQPConfig(workers=WORKERS)).open(problem.structure)

    def solve(session, q):
        program = problem.bind({**problem.constants, "q": q}, len(q))
        return session.solve(program, changed=frozenset({"q"})).primal

    session = opened()
    with joblib.parallel_config(backend=BACKEND):
        solve(session, q[:4])  # workers are there before the interrupt
        heard, sent = threading.Event(), []

        def interrupt():
            # Again and again: with other threads beside, one that falls into OSQP's polishing is lost.
            for _ in range(20):
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
                if heard.wait(2):
                    return

        threading.Timer(0.7, interrupt).start()
        try:
            solve(session, q)
        except KeyboardInterrupt:
            heard.set()
            print("waited", time.monotonic() - sent[-1])
            print("interrupted", flush=True)
        again = solve(session, q[4:10])
    with joblib.parallel_config(backend="sequential"):
        fresh = solve(opened(), q[4:10])
    print("same" if torch.equal(again, fresh) else "different", flush=True)
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(5)
        print("lost", flush=True)
    except KeyboardInterrupt:
        print("heard", flush=True)


if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize(
    ("workers", "backend"), [(1, "threading"), (2, "threading"), (2, "loky")], ids=str
)
def test_an_interrupt_ends_the_batch_and_the_session_works_on(workers, backend, tmp_path):
    path = tmp_path / "interrupted.py"
    path.write_text(SCRIPT)
    command = [sys.executable, str(path), str(workers), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    waited = [float(line.split()[1]) for line in done.stdout.splitlines() if "waited" in line]
    assert waited, done.stdout
    assert waited[0] < 20, done.stdout  # a native call takes milliseconds: this is against hanging
    assert done.stdout.split()[-3:] == ["interrupted", "same", "heard"], done.stdout


class Opened:
    """A session for problems that differ in q; each object has its own."""

    def __init__(self) -> None:
        self.problem = declare(random_qp(0, 20, 4, 10), ["q"])
        self.session = OSQPSolver(OSQPConfig()).open(self.problem.structure)

    def solve(self, q: Tensor) -> Solution:
        program = self.problem.bind({**self.problem.constants, "q": q}, len(q))
        return self.session.solve(program, changed=frozenset({"q"}))


def values(batch: int) -> Tensor:
    noise = torch.randn(batch, 20, generator=torch.Generator().manual_seed(1)).double()
    return random_qp(0, 20, 4, 10)["q"] + 0.3 * noise


def interrupted_status(monkeypatch, call):
    """Let OSQP say once that it was interrupted, as where it took the signal."""
    solve, calls = osqp.OSQP.solve, []

    def taken(self, *args, **options):
        result = solve(self, *args, **options)
        calls.append(1)
        if len(calls) == call:
            result.info.status_val = osqp.SolverStatus.OSQP_SIGINT
        return result

    monkeypatch.setattr(osqp.OSQP, "solve", taken)


@pytest.mark.parametrize("call", [1, 3])
def test_a_signal_that_osqp_took_is_handed_on_and_the_session_works_on(call, monkeypatch):
    opened, q = Opened(), values(4)
    interrupted_status(monkeypatch, call)
    with pytest.raises(KeyboardInterrupt):
        opened.solve(q)
    again = opened.solve(q)
    assert again.status == (Status.OPTIMAL,) * 4
    assert torch.equal(again.primal, Opened().solve(q).primal)


def test_a_signal_that_is_not_handed_on_would_be_noticed(monkeypatch):
    interrupted_status(monkeypatch, 1)
    monkeypatch.setattr(interrupts, "hand_on", lambda: None)
    assert Opened().solve(values(4)).status == (Status.NUMERICAL,) + (Status.OPTIMAL,) * 3


def test_restore_gives_the_signal_back_to_python():
    def heard():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
        except KeyboardInterrupt:
            return True
        return False

    with tempfile.TemporaryFile() as sink:
        faulthandler.register(signal.SIGINT, file=sink)  # a handler that Python does not know of
        try:
            assert not heard()
            interrupts.restore()
            assert heard()
        finally:
            faulthandler.unregister(signal.SIGINT)
            interrupts.restore()


def test_a_signal_is_held_back_in_the_main_thread_alone():
    def blocked():
        with interrupts.held_back():
            return signal.SIGINT in signal.pthread_sigmask(signal.SIG_BLOCK, set())

    found = []
    thread = threading.Thread(target=lambda: found.append(blocked()))
    thread.start()
    thread.join()
    assert blocked()
    assert found == [False]
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, set())


ONCE = """
import os, random, signal, subprocess, sys, time
import torch
from foldcore_osqp import OSQPConfig, OSQPSolver
from foldcore.testing.problems import declare, random_qp

signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)
data = random_qp(0, 60, 10, 30)
problem = declare(data, ["q"])
session = OSQPSolver(OSQPConfig()).open(problem.structure)
program = problem.bind({**problem.constants, "q": data["q"].expand(16, 60)}, 16)
solve = lambda: session.solve(program, changed=frozenset({"q"}))
solve()
threads = len(os.listdir("/proc/self/task"))
generator, heard = random.Random(0), 0
for _ in range(20):
    wait = 0.05 + 0.02 * generator.random()
    sender = subprocess.Popen(["sh", "-c", f"sleep {wait}; kill -INT {os.getpid()}"])
    try:
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            solve()
    except KeyboardInterrupt:
        heard += 1
    sender.wait()
print(threads, heard)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_with_one_thread_no_signal_is_lost(tmp_path):
    path = tmp_path / "once.py"
    path.write_text(ONCE)
    alone = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(path)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=alone
    )
    assert done.returncode == 0, done.stderr
    threads, heard = map(int, done.stdout.split()[-2:])
    assert threads == 1, "another thread would get what the main thread blocks"
    assert heard == 20


@pytest.mark.parametrize("fault", [False, True], ids=["held back", "not held back"])
def test_a_signal_that_osqp_would_forget_is_heard_because_it_is_held_back(fault, monkeypatch):
    solve, calls = osqp.OSQP.solve, []

    def forgetful(self, *args, **options):
        calls.append(1)
        if len(calls) != 3:
            return solve(self, *args, **options)
        with tempfile.TemporaryFile() as sink:
            faulthandler.register(signal.SIGINT, file=sink)  # takes the signal, as OSQP does
            try:
                signal.pthread_kill(threading.get_ident(), signal.SIGINT)
                return solve(self, *args, **options)
            finally:
                faulthandler.unregister(signal.SIGINT)

    monkeypatch.setattr(osqp.OSQP, "solve", forgetful)
    if fault:
        monkeypatch.setattr(interrupts, "held_back", nullcontext)
        Opened().solve(values(4))
    else:
        with pytest.raises(KeyboardInterrupt):
            Opened().solve(values(4))
    assert len(calls) >= 3
