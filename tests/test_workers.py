"""foldcore/workers.py: chunks in order, and models that are lent to one worker at a time."""

from __future__ import annotations

import os
import threading

import joblib
import pytest

from foldcore import run_chunks, worker_model
from foldcore.solvers import workers


class Model:
    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("count", [1, 2, 5, 7])
def test_chunks_keep_the_order_and_are_as_many_as_workers(count):
    sizes = []

    def squares(chunk):
        sizes.append(len(chunk))
        return [item**2 for item in chunk]

    with joblib.parallel_config(backend="threading"):
        found = run_chunks(squares, range(5), count)
    assert found == [0, 1, 4, 9, 16]
    assert len(sizes) == min(count, 5)
    assert max(sizes) - min(sizes) <= 1


def test_a_model_is_kept_for_the_next_call_of_its_token():
    token = os.urandom(8).hex()
    with worker_model(token, Model) as (first, fresh):
        assert fresh
    with worker_model(token, Model) as (again, fresh):
        assert again is first
        assert not fresh
        with worker_model(token, Model) as (other, _):  # the first is lent already
            assert other is not first
    found = []

    def ask():
        with worker_model(token, Model) as (mine, fresh):
            found.append((mine, fresh))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert found[0][0] is not first
    assert found[0][1]


def test_a_model_whose_block_raised_is_closed_and_not_lent_again():
    token = os.urandom(8).hex()
    with pytest.raises(KeyboardInterrupt), worker_model(token, Model) as (first, _):
        raise KeyboardInterrupt
    assert first.closed == 1
    with worker_model(token, Model) as (again, fresh):
        assert again is not first
        assert fresh


def test_models_beyond_the_limit_are_closed(monkeypatch):
    monkeypatch.setattr(workers, "_WORKER_MODELS", type(workers._WORKER_MODELS)())
    monkeypatch.setattr(workers, "_WORKER_LIMIT", 2)
    kept = []
    for token in ("a", "b", "c"):
        with worker_model(token, Model) as (model, _):
            kept.append(model)
    assert [model.closed for model in kept] == [1, 0, 0]
