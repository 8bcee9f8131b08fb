"""Turns: one at a time, inspections first, and a timeout that takes nothing."""

from __future__ import annotations

import threading

import pytest

from pipelines.worker.priority_lock import Turns


def test_an_inspection_comes_before_the_steps_that_wait() -> None:
    turns = Turns()
    order: list[str] = []
    started = threading.Semaphore(0)

    def step() -> None:
        started.release()
        with turns:
            order.append("step")

    def inspection() -> None:
        started.release()
        with turns.urgent():
            order.append("inspection")

    assert turns.acquire()
    threads = [threading.Thread(target=target) for target in (step, step, inspection)]
    for thread in threads:
        thread.start()
        started.acquire()
    while turns._urgent == 0:  # it stands in the queue
        threading.Event().wait(0.001)
    turns.release()
    for thread in threads:
        thread.join(10)
    assert order == ["inspection", "step", "step"]


def test_one_at_a_time_whatever_comes() -> None:
    turns = Turns()
    inside = most = 0

    def work(number: int) -> None:
        nonlocal inside, most
        for _ in range(50):
            with turns.urgent() if number % 2 else turns:
                inside += 1
                most = max(most, inside)
                inside -= 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert most == 1
    assert turns.acquire(timeout=0)


def test_a_timeout_takes_nothing_and_an_error_gives_the_turn_back() -> None:
    turns = Turns()
    with turns:
        assert not turns.acquire(timeout=0.01)
    with pytest.raises(ZeroDivisionError), turns.urgent():
        1 / 0  # noqa: B018
    assert turns.acquire(timeout=0)
