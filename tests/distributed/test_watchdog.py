"""A process ends with the others, and says why: one that is lost, stuck or failed."""

import queue
import socket
import threading
import time

import pytest

from hyperdyn_jax.distributed import relay, watchdog
from hyperdyn_jax.distributed.connection import Connection
from hyperdyn_jax.distributed.place import TRY_AGAIN, Place
from hyperdyn_jax.system import signals

ON = "; the same command on every machine goes on\n"


class Group:
    """Processes of a run as threads of this one, that end as processes do.

    codes: exit codes in the order of the ends. ends: of the connections between process
    0 and each other one. each: the watchdogs.
    """

    def __init__(self, monkeypatch):
        self.codes, self.ends, self.each = queue.Queue(), [], {}
        monkeypatch.setattr(watchdog, "_end", self._end)
        monkeypatch.setattr(watchdog, "_watchdog", None)
        monkeypatch.setattr(signals, "cut_off", None)

    def _end(self, code):
        self.codes.put(code)
        threading.Event().wait()  # nothing comes after an end

    def start(self, processes, heartbeat=10.0, watched=None):
        """Watchdogs of some of the processes; the others are connections alone."""
        place = Place("127.0.0.1", 1, processes, 0, heartbeat, "127.0.0.1")
        pairs = [socket.socketpair() for _ in range(processes - 1)]
        self.ends += pairs
        peers = [{i + 1: Connection(pair[0]) for i, pair in enumerate(pairs)}]
        peers += [{0: Connection(pair[1])} for pair in pairs]
        self.each = {
            i: watchdog.Watchdog(place._replace(process=i), peers[i])
            for i in (range(processes) if watched is None else watched)
        }
        return self.each

    def next_code(self):
        return self.codes.get(timeout=30)


@pytest.fixture
def group(monkeypatch):
    made = Group(monkeypatch)
    yield made
    for dog in made.each.values():
        dog._has_cause = True
    for pair in made.ends:
        for end in pair:
            end.close()


def leaving(dog, code=0):
    threading.Thread(target=dog.leave, args=(code,), daemon=True).start()


def test_a_killed_process_is_lost_at_once(group, capsys):
    group.start(3, watched=(0, 2))
    group.ends[0][1].close()
    assert [group.next_code(), group.next_code()] == [TRY_AGAIN] * 2
    said = f"error: process 1 was lost: its connection is closed{ON}"
    assert capsys.readouterr().err == said * 2  # by both that are left


@pytest.mark.parametrize(("left", "lost"), [(0, 1), (1, 0)])
def test_a_process_that_falls_silent_is_lost(group, capsys, left, lost):
    began = time.monotonic()
    group.start(2, 0.4, watched=(left,))
    assert group.next_code() == TRY_AGAIN
    assert 0.4 <= time.monotonic() - began < 5
    said = f"error: process {lost} was lost: nothing heard of it for 0.4 s{ON}"
    assert capsys.readouterr().err == said


def test_processes_that_only_wait_hear_of_each_other(group):
    group.start(3, 0.4)
    with pytest.raises(queue.Empty):
        group.codes.get(timeout=1.5)


def test_a_stuck_process_that_is_to_stop_ends_the_others(group, capsys):
    group.start(3)
    signals.cut_off()  # of the last one
    assert [group.next_code(), group.next_code()] == [0, 0]
    assert capsys.readouterr().err == f"stopped with process 2{ON}" * 2


def test_an_exit_code_is_handed_on(group, capsys):
    each = group.start(3)
    leaving(each[1], 3)
    assert {group.next_code() for _ in range(3)} == {3}
    assert capsys.readouterr().err == "error: process 1 ended with exit code 3\n" * 2


def test_two_that_find_the_same_error_have_told_it_themselves(group, capsys):
    each = group.start(2)
    for dog in each.values():
        leaving(dog, 3)
    assert [group.next_code(), group.next_code()] == [3, 3]
    assert capsys.readouterr().err == ""


def test_processes_leave_together(group, capsys):
    each = group.start(3)
    leaving(each[1])
    leaving(each[2])
    with pytest.raises(queue.Empty):  # they wait for process 0, which may be saving
        group.codes.get(timeout=0.2)
    leaving(each[0])
    assert [group.next_code() for _ in range(3)] == [0, 0, 0]
    assert capsys.readouterr().err == ""


def test_process_0_saves_on_when_one_that_is_done_is_killed(group, capsys):
    each = group.start(2, watched=(0,))
    other = group.ends[0][1]
    other.sendall(b"done\n")
    other.close()
    with pytest.raises(queue.Empty):
        group.codes.get(timeout=0.2)
    leaving(each[0])
    assert group.next_code() == 0
    assert capsys.readouterr().err == ""


def test_one_that_waits_for_process_0_ends_with_its_error(group, capsys):
    each = group.start(2)
    leaving(each[1])
    leaving(each[0], TRY_AGAIN)
    assert [group.next_code(), group.next_code()] == [TRY_AGAIN] * 2
    said = f"error: process 0 ended with exit code {TRY_AGAIN}{ON}"
    assert capsys.readouterr().err == said


def test_an_error_without_others_is_raised_and_a_code_returned(group):
    assert watchdog.run(lambda: 3) == 3
    with pytest.raises(ZeroDivisionError):
        watchdog.run(lambda: 1 // 0)
    assert group.codes.empty()


def test_an_error_is_told_where_no_lost_process_was_its_cause(
    group, monkeypatch, capsys
):
    each = group.start(2, 0.4)
    monkeypatch.setattr(watchdog, "_watchdog", each[1])
    monkeypatch.setattr(time, "sleep", lambda _, sleep=time.sleep: sleep(0.02))
    failing = (lambda: 1 // 0,)
    threading.Thread(target=watchdog.run, args=failing, daemon=True).start()
    assert {group.next_code(), group.next_code()} == {1}
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "error: process 1 ended with exit code 1\n" in said


def test_a_relay_stays_open_when_its_target_is_gone():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = relay.start(*server.getsockname())
        near = socket.create_connection(("127.0.0.1", port))
        far, _ = server.accept()
    near.sendall(b"there")
    assert far.recv(10) == b"there"
    far.sendall(b"and back")
    assert near.recv(10) == b"and back"
    far.close()
    near.settimeout(0.3)
    with pytest.raises(TimeoutError):  # an end would read as b""
        near.recv(10)
    near.close()
