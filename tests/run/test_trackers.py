"""Trackers: every durable row arrives once, in the services' own files."""

import json
import os
import struct
import subprocess
import sys

import jax
import pytest
import sqlalchemy
from paths import ROOT
from tensorboardX.proto import event_pb2

from hyperdyn_jax import Schedule, tune
from hyperdyn_jax.run import trackers

# A run on the characters that is stopped after a decision, as if by a signal.
PROGRAM = """
import sys
from hyperdyn_jax import loop
from hyperdyn_jax.run.console import Display
from hyperdyn_jax.system import signals

namespace = {}
exec(open("configs/characters.py").read(), namespace)
config = namespace["get_config"]()
config.update(batch_size=2048, eval_batch_size=2048, epochs=4, strategy="constant")
config.model.width = 8
config.trackers, workdir, left = sys.argv[1], sys.argv[2], int(sys.argv[3])

class Stopping(Display):
    def decision(self, *rows):
        global left
        left -= 1
        signals._asked = left <= 0

try:
    loop.train_and_evaluate(config.to_dict(), workdir, Stopping())
except KeyboardInterrupt:
    print("stopped")
print([name for name in ("wandb", "mlflow") if name in sys.modules])
"""


def run(workdir, names, decisions):
    offline = {"WANDB_MODE": "offline", "MLFLOW_TRACKING_URI": "", "XLA_FLAGS": ""}
    environment = os.environ | offline | {"PYTHONPATH": str(ROOT)}
    del environment["MLFLOW_TRACKING_URI"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, names, workdir, str(decisions)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def rows(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run that had trackers from its second process on, and was stopped twice."""
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    workdir = tmp_path_factory.mktemp("run")
    *_, stopped, imported = run(workdir, "", 2)
    assert (stopped, imported) == ("stopped", "[]")
    assert len(rows(workdir)) == 2
    assert not list(workdir.glob("wandb*"))
    assert run(workdir, "wandb,mlflow", 1)[-2] == "stopped"
    assert len(rows(workdir)) == 3
    *_, imported = run(workdir, "wandb,mlflow", 9)
    assert imported == "['wandb', 'mlflow']"
    return workdir


def expected(workdir):
    """Of each row, the step it is sent with and its numbers."""
    found = []
    for row in rows(workdir):
        numbers = {k: v for k, v in row.items() if k not in ("step", "hyperparams")}
        numbers |= {f"hyperparams/{k}": v for k, v in row["hyperparams"].items()}
        found.append((row["step"], numbers | {"extra_steps": 0}))
    assert len(found) == 4
    return found


@pytest.mark.slow
def test_wandb_offline_files_hold_every_row_once(finished):
    from wandb.proto import wandb_internal_pb2 as pb

    found, runs = [], set()
    for file in sorted(finished.glob("wandb/offline-run-*/*.wandb")):
        for content in records(file):
            record = pb.Record.FromString(content)
            kind = record.WhichOneof("record_type")
            if kind == "run":
                runs.add(record.run.run_id)
            if kind == "history":
                items = {
                    item.key or "/".join(item.nested_key): json.loads(item.value_json)
                    for item in record.history.item
                }
                found.append((record.history.step.num, items))
    assert len(runs) == 1
    assert [
        (step, {k: v for k, v in items.items() if not k.startswith("_")})
        for step, items in found
    ] == expected(finished)


def records(file):
    """The records of a .wandb file, a log as LevelDB has it after a header of 7 bytes:
    blocks of 32 KiB; of each piece its checksum, length and kind (whole, first, middle,
    last)."""
    content, place, whole = file.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # the rest of a block is padding
            place += 2**15 - place % 2**15
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            yield whole
            whole = b""


@pytest.mark.slow
def test_mlflow_store_holds_every_row_once(finished):
    program = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(f"sqlite:///{sys.argv[1]}/mlflow.db")
(run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
history = {name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
           for name in run.data.metrics}
print(json.dumps([history, run.data.params, run.info.status]))
"""  # noqa: E501
    done = subprocess.run(
        [sys.executable, "-c", program, finished], capture_output=True, check=True
    )
    history, params, status = json.loads(done.stdout)
    steps = {}
    for name, values in history.items():
        for step, value in values:
            assert name not in steps.setdefault(step, {})
            steps[step][name] = value
    assert sorted(steps.items()) == expected(finished)
    assert (params["optimizer.name"], status) == ("adam", "FINISHED")
    assert not (ROOT / "file%3A").exists()  # MLflow's idea of the folder of a database


@pytest.mark.slow
def test_tensorboard_holds_every_row_once(finished):
    steps = {}
    for file in sorted(finished.glob("tensorboard/events*")):
        content, place = file.read_bytes(), 0
        while place < len(content):  # TFRecord: length, checksum, data, checksum
            (size,) = struct.unpack_from("<Q", content, place)
            data = content[place + 12 : place + 12 + size]
            event = event_pb2.Event.FromString(data)
            place += 16 + size
            for value in event.summary.value:
                there = steps.setdefault(event.step, {})
                assert value.tag not in there
                there[value.tag] = pytest.approx(value.simple_value, rel=1e-6)
    assert sorted(steps.items()) == expected(finished)


class Service:
    """A tracker that can be away."""

    sent, away, opened = [], False, 0

    def __init__(self, place):
        Service.opened += 1
        self._path = place.path

    def log(self, scalars, step):
        if Service.away:
            raise ConnectionError("the service\nis away")
        score = scalars.get("validation_loss", scalars.get("validation_accuracy"))
        Service.sent.append((step, score))

    def close(self):
        Service.sent.append("closed")


@pytest.fixture
def service(monkeypatch):
    monkeypatch.setitem(trackers.TRACKERS, "mlflow", Service)
    monkeypatch.setattr(Service, "sent", [])
    monkeypatch.setattr(Service, "away", False)
    monkeypatch.setattr(Service, "opened", 0)
    return Service


def row(epoch):
    metrics = {"step": 10 * epoch, "hyperparams": {"learning_rate": 0.1}}
    decision = {"branch": 0, "keep_probability": None, "extra_steps": 0}
    return metrics | {"validation_loss": 1.0 / epoch, "test_loss": None}, decision


def test_what_cannot_be_sent_follows_later(service, tmp_path):
    said, metrics, decisions = [], [], []
    following = trackers.Trackers(tmp_path, ["mlflow"], {}, said.append)
    following.start()
    for epoch in range(1, 6):
        service.away = epoch in (2, 3)
        new, decision = row(epoch)
        metrics.append(new)
        decisions += [decision, decision | {"branch": -1}]
        following.follow(metrics, decisions)
    following.close()
    assert said == ["warning: mlflow: the service is away"]
    assert service.sent == [(10 * n, 1.0 / n) for n in range(1, 6)] + ["closed"]
    again = trackers.Trackers(tmp_path, ["mlflow"], {}, said.append)
    assert not again.lack(5)
    again.follow(metrics, decisions)
    assert again.lack(6)
    assert len(service.sent) == 6


def test_own_loop_is_followed_and_a_resumed_one_sends_no_row_twice(service, tmp_path):
    stop = [2]

    def callback(*_):
        stop[0] -= 1
        if not stop[0]:
            raise KeyboardInterrupt

    def attempt():
        return tune(
            lambda w, *_: 0.5 * w, lambda w: w, 8.0,
            Schedule.constant(learning_rate=0.1), epochs=4, steps_per_epoch=1,
            key=jax.random.key(0), workdir=tmp_path, trackers="mlflow",
            callback=callback,
        )  # fmt: skip

    with pytest.raises(KeyboardInterrupt):
        attempt()
    attempt()
    assert service.sent == [(1, 4.0), (2, 2.0), "closed", (3, 1.0), (4, 0.5), "closed"]


def test_a_service_that_cannot_be_started_is_a_line(service, tmp_path, monkeypatch):
    def refuse(*_):
        raise RuntimeError("no\nkey")

    monkeypatch.setattr(service, "__init__", refuse)
    with pytest.raises(ValueError, match=r"^mlflow cannot be started: no key$"):
        trackers.Trackers(tmp_path, ["mlflow"], {}).start()


def test_the_database_is_where_the_run_is_whatever_its_name(tmp_path):
    for name in ("plain", "what? #1 100%2F:½", "a=b&c"):
        file = tmp_path / name / "mlflow.db"
        file.parent.mkdir()
        engine = sqlalchemy.create_engine(trackers._sqlite(file))
        with engine.begin() as connection:
            connection.execute(sqlalchemy.text("create table t (x int)"))
        engine.dispose()
        assert file.stat().st_size
    assert len(list(tmp_path.iterdir())) == 3


def test_names_are_checked(monkeypatch):
    assert trackers.parse(" wandb,,tensorboard, wandb") == ["wandb", "tensorboard"]
    with pytest.raises(ValueError, match="tensorboard, wandb, mlflow, got 'wb'"):
        trackers.parse("wandb,wb")
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ValueError, match=r'installed: pip install -e "\.\[mlflow\]"'):
        trackers.parse("tensorboard,mlflow")


def test_a_row_that_follows_on_another_state_is_sent_as_any():
    setting = {"learning_rate": 0.1}
    row = {"step": 4, "validation_loss": 1.5, "hyperparams": setting}
    decision = {"keep_probability": None, "extra_steps": 8}
    expected = trackers.scalars(row, decision)
    assert expected["validation_loss"] == 1.5
    assert trackers.scalars(row | {"path": [[2, setting]]}, decision) == expected
