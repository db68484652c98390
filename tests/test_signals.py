"""Stopping signals: noticed between steps, never lost, in time wherever a run is."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from hyperdyn_jax import signals


def send(number):
    """Sends this process a signal, and waits until it was noticed."""
    os.kill(os.getpid(), number)
    end = time.monotonic() + 30
    while not signals._asked and time.monotonic() < end:
        time.sleep(0.001)


def handlers():
    return [signal.getsignal(number) for number in signals.STOPPING]


@pytest.mark.parametrize("number", signals.STOPPING)
def test_the_next_check_stops_and_says_so(capsys, number):
    before = handlers()
    steps = 0
    with signals.stoppable("stopped; go on"):
        signals.check()
        send(number)
        steps += 1  # the step in progress ends
        signals.check()
        steps += 1
    assert steps == 1
    assert capsys.readouterr().err == "stopped; go on\n"
    assert handlers() == before
    signals.check()  # and what comes after may run


def test_nothing_is_said_of_a_run_that_ends_by_itself(capsys):
    before = handlers()
    with signals.stoppable("stopped"):
        signals.check()
    assert capsys.readouterr().err == ""
    assert handlers() == before


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), signals.stoppable("stopped"):
        raise ZeroDivisionError


def test_garbage_collection_does_not_swallow_it(capsys):
    """An exception raised in a callback of the collector is dropped by Python."""

    def callback(phase, info):  # noqa: ARG001 (Python's signature)
        if phase == "start" and not signals._asked:
            send(signal.SIGINT)

    with signals.stoppable("stopped"):
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        signals.check()
        pytest.fail("not stopped")
    assert capsys.readouterr().err == "stopped\n"


STUCK = """
import signal, sys, time
from hyperdyn_jax import signals
signals.GRACE = float(sys.argv[1])
with signals.stoppable("stopped"):
    print("ready", flush=True)
    time.sleep(60)  # as a compiler would, it does not look at the flag
"""


@pytest.mark.parametrize(("grace", "count", "code"), [(0.2, 1, 0), (50, 2, 143)])
def test_a_run_that_is_stuck_ends_in_time_or_at_a_second_signal(grace, count, code):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for _ in range(count):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)  # two that are pending at once are one
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert err == ("stopped\n" if code == 0 else "")
    assert time.monotonic() - began < 30
