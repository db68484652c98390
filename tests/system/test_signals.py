"""Stopping signals: noticed between steps, never lost, in time wherever a run is."""

import gc
import os
import signal
import subprocess
import sys
import time

import pytest

from hyperdyn_jax.system import signals


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
    with signals.stoppable():
        signals.check()
        send(number)
        steps += 1  # the step in progress ends
        signals.check()
        steps += 1
    assert steps == 1
    assert capsys.readouterr().err == signals.SAVED + "\n"
    assert handlers() == before
    signals.check()  # and what comes after may run


def test_nothing_is_said_of_a_run_that_ends_by_itself(capsys):
    before = handlers()
    with signals.stoppable():
        signals.check()
    assert capsys.readouterr().err == ""
    assert handlers() == before


def test_other_errors_pass():
    with pytest.raises(ZeroDivisionError), signals.stoppable():
        raise ZeroDivisionError


def test_garbage_collection_does_not_swallow_it(capsys):
    """An exception raised in a callback of the collector is dropped by Python."""

    def callback(phase, info):  # noqa: ARG001 (Python's signature)
        if phase == "start" and not signals._asked:
            send(signal.SIGINT)

    with signals.stoppable():
        gc.callbacks.append(callback)
        try:
            gc.collect()
        finally:
            gc.callbacks.remove(callback)
        signals.check()
        pytest.fail("not stopped")
    assert capsys.readouterr().err == signals.SAVED + "\n"


STUCK = """
import os, signal, sys, time
from hyperdyn_jax.system import signals
signals.GRACE = float(sys.argv[1])
with signals.stoppable():
    print("ready", flush=True)
    time.sleep(60)  # as a compiler would, it does not look at the flag
"""
AT_ONCE = signals.AT_ONCE.format("SIGTERM")
TERM, HUP, CPU = signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU


@pytest.mark.parametrize(
    ("grace", "sent", "code", "line"),
    [
        (0.2, [TERM], 0, signals.STUCK),
        (50, [TERM, TERM], 143, AT_ONCE),
        (50, [HUP, TERM], 143, AT_ONCE),
        (2, [TERM, CPU], 0, signals.STUCK),  # which comes every second
    ],
)
def test_a_run_that_is_stuck_ends_in_time_or_at_a_second_signal(
    grace, sent, code, line
):
    process = subprocess.Popen(
        [sys.executable, "-c", STUCK, str(grace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "ready\n"
    began = time.monotonic()
    for number in sent:
        process.send_signal(number)
        time.sleep(1.3 * signals.TWICE)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (code, line + "\n")
    assert time.monotonic() - began < 30


def test_a_signal_that_is_sent_twice_is_one(capsys):
    """As `timeout` does to a command and its group, and shells to what they end."""
    with signals.stoppable():
        for _ in range(20):
            send(signal.SIGTERM)
        signals.check()
    assert capsys.readouterr().err == signals.SAVED + "\n"


@pytest.mark.parametrize("number", signals.STOPPING)
def test_what_is_ignored_stays_so(number):
    """SIGHUP under `nohup`, SIGINT in what a shell runs in the background."""
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with signals.stoppable():
            os.kill(os.getpid(), number)
            time.sleep(0.05)
            signals.check()
            assert signal.getsignal(number) is signal.SIG_IGN
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
