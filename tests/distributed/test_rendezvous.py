"""Processes meet, here as threads; or they tell what is in the way."""

import socket
import threading
import time

import pytest

from hyperdyn_jax.distributed import rendezvous
from hyperdyn_jax.distributed.place import TRY_AGAIN, JoinError, Place

HELLO = "hyperdyn_jax 3 123"


@pytest.fixture
def place():
    """Process 0 of three, at a free port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    return Place("127.0.0.1", port, 3, 0, 10.0, "127.0.0.1")


def meet(place, hellos):
    """What comes of it for each process that says a hello: connections or an error."""
    found = {}

    def come(number, hello):
        way = rendezvous.visit if number else rendezvous.receive
        try:
            found[number] = way(place._replace(process=number), hello)
        except JoinError as error:
            found[number] = error

    threads = [threading.Thread(target=come, args=each) for each in hellos.items()]
    for thread in threads:
        thread.start()
    return found, threads


def join(threads):
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def test_processes_wait_for_each_other_and_not_for_strangers(place):
    found, threads = meet(place, {2: HELLO, 0: HELLO})
    while True:
        try:
            stranger = socket.create_connection((place.host, place.port), timeout=1)
        except OSError:
            continue
        stranger.sendall(b"GET / HTTP/1.1\n")
        stranger.close()
        break
    time.sleep(0.1)
    assert not found  # the third is still to come
    late, last = meet(place, {1: HELLO})
    join(threads + last)
    found |= late
    assert found[0].keys() == {1, 2}
    assert found[1].keys() == found[2].keys() == {0}
    found[0][2].say("for 2")
    assert found[2][0].hear(1) == "for 2"
    for peers in found.values():
        for peer in peers.values():
            peer.close()
    with socket.create_server((place.host, place.port)):  # JAX's service comes there
        pass


def test_a_config_that_only_one_process_has_ends_both(place):
    found, threads = meet(place, {0: HELLO, 1: "hyperdyn_jax 3 124"})
    join(threads)
    problem = "process 1 has another --processes or config than process 0"
    for error in found.values():
        assert error.code == 2
        assert len(error.problems) == 1
        assert error.problems[0].startswith(problem)


def test_nobody_comes(monkeypatch, place):
    monkeypatch.setattr(rendezvous, "WAIT", 0.3)
    with pytest.raises(JoinError, match="process 1, 2 did not come in 0 s") as error:
        rendezvous.receive(place, HELLO)
    assert error.value.code == TRY_AGAIN
    with pytest.raises(JoinError, match="no process 0 came in 0 s") as error:
        rendezvous.visit(place._replace(process=1), HELLO)
    assert error.value.code == TRY_AGAIN


def test_a_port_in_use_is_told_of(place):
    with (
        socket.create_server((place.host, place.port)),
        pytest.raises(JoinError, match="process 0 cannot listen there"),
    ):
        rendezvous.receive(place, HELLO)
