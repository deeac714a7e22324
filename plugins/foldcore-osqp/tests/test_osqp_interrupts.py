"""Ctrl-C ends a batch, reaches Python, and leaves a layer that works."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys, threading, time
import joblib, torch
import foldcore
from foldcore.testing.problems import declare, random_qp

KIND, WORKERS, BACKEND = sys.argv[1], int(sys.argv[2]), sys.argv[3]


def main():
    torch.set_num_threads(1)
    data = random_qp(0, 100, 20, 50)
    noise = torch.randn(8000, 100, generator=torch.Generator().manual_seed(1)).double()
    q = data["q"] + 0.3 * noise
    solver = {"kind": KIND, "workers": WORKERS}
    build = lambda: foldcore.build({"problem": declare(data, ["q"]), "solver": solver, "rule": "newton"})
    layer = build()
    with joblib.parallel_config(backend=BACKEND):
        layer(q=q[:4])  # workers are there before the interrupt
        heard, sent = threading.Event(), []

        def interrupt():
            # Again and again: one that falls into OSQP's polishing is lost within OSQP.
            for _ in range(20):
                sent.append(time.monotonic())
                os.kill(os.getpid(), signal.SIGINT)
                if heard.wait(2):
                    return

        threading.Timer(0.7, interrupt).start()
        try:
            layer(q=q)
        except KeyboardInterrupt:
            heard.set()
            print("waited", time.monotonic() - sent[-1])
            print("interrupted", flush=True)
        again = layer(q=q[4:10])
    with joblib.parallel_config(backend="sequential"):
        fresh = build()(q=q[4:10])
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
def test_an_interrupt_ends_the_batch_and_the_layer_works_on(workers, backend, tmp_path):
    path = tmp_path / "interrupted.py"
    path.write_text(SCRIPT)
    command = [sys.executable, str(path), "osqp", str(workers), backend]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    waited = [float(line.split()[1]) for line in done.stdout.splitlines() if "waited" in line]
    assert waited, done.stdout
    assert waited[0] < 20, done.stdout  # a native call takes milliseconds: this is against hanging
    assert done.stdout.split()[-3:] == ["interrupted", "same", "heard"], done.stdout
