"""What every command does where the environment is odd: one line a case.

A command that cannot go on says why in a line, exits with 2 and leaves nothing behind.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import tfds_fixture
from paths import ROOT
from written_runs import write_run

pytestmark = pytest.mark.slow

SHORT = "--config=characters --config.strategy=constant --config.epochs=1"
SHORT += " --config.model.width=8 --config.batch_size=8192"

# @here is an empty folder, and the home; the others are there already.
TRAIN = f"train {SHORT} --workdir=@here/out"
TUNE = "tune @here/out"
REPORT = "report @run --output=@here/out"
COMPARE = "compare @run --output=@here/out"
REPLAY = "replay @run --seeds=1"  # which was made before
REPLAY_ANEW = "replay @run --seeds=2 --output=@here/out"
ONE = f"study {SHORT} --strategies=constant"
STUDY = f"{ONE} --output=@study"  # likewise
STUDY_ANEW = f"{ONE} --output=@here/out"
SCHEDULE = "schedule @run --output=@here/out.png"
PAPER = "paper figure1a @paper --output=@here/out"
DOCTOR = "doctor --workdir=@here/out --data_dir=@data"
PREPARE = "prepare cifar10 --data_dir=@data"
PREPARE_ANEW = "prepare cifar10 --data_dir=@here/out"

ABSENT = "error: JAX_PLATFORMS=cuda: no such device here, its JAX plugin is not instal"
READY = "cifar10 is ready in @data: 300 in split 'train', 60 in split 'test'"
NO_FOLDER = "@here/out cannot be written: @here is not a writable folder"
REFUSED = "cannot be written: Read-only file system"
GONE = "error: the current folder has been removed; change to another one"
NO_HOME = "there is no such home folder"
TRAINED = "4 accepted steps, 4 total steps"
NEEDED = "error: the following arguments are required: "
UNKNOWN = "error: unrecognized arguments: --nonsense"
FLAG = "error: '--nonsense"


class Case(NamedTuple):
    """A command in an environment.

    place: of `forked.PLACES`.
    command: its words.
    code: that it exits with.
    told: a part of what it prints, or a file that it makes where it can print nothing.
    """

    place: str
    command: str
    code: int
    told: str


CASES = [
    # As it should be. The folder of everything has a name with all that is special.
    Case("usual", TRAIN, 0, TRAINED),
    Case("usual", REPLAY_ANEW, 0, "over 1 seed; gap"),
    Case("usual", STUDY_ANEW, 0, "run 1 of 1: @here/out/constant/seed0"),
    Case("usual", TUNE, 0, "file @here/out/schedule.json"),
    Case("usual", REPORT, 0, "@here/out/report.html"),
    Case("usual", COMPARE, 0, "@here/out/compare.html"),
    Case("usual", SCHEDULE, 0, "@here/out.png"),
    Case("usual", "schedule @run", 0, "0–3    0.9  0.999  0.001"),
    Case("usual", "schedule diff @run @run", 0, "the same at all 4 steps"),
    Case("usual", PAPER, 0, "written to @here/out/: figure1a"),
    Case("usual", DOCTOR, 0, "the first of each can be read, 32x32"),
    Case("usual", PREPARE, 0, READY),
    # A command line with nothing in it, with help, with a flag that there is not.
    Case("usual", "train", 2, "error: --config is missing, for example"),
    Case("usual", "report", 2, f"{NEEDED}RUN"),
    Case("usual", "compare", 2, f"{NEEDED}RUN"),
    Case("usual", "replay", 2, f"{NEEDED}RUN"),
    Case("usual", "study", 2, "error: --config is missing, for example"),
    Case("usual", "schedule", 2, f"{NEEDED}[diff] RUN"),
    Case("usual", "paper", 2, f"{NEEDED}WHAT, RUN"),
    Case("usual", "doctor", 0, "ok       devices"),
    Case("usual", "prepare", 2, f"{NEEDED}DATASET, --data_dir"),
    Case("usual", "train --help", 0, "--config=FILE"),
    Case("usual", "report --help", 0, "--output DIR"),
    Case("usual", "compare --help", 0, "--output DIR"),
    Case("usual", "replay --help", 0, "--seeds 0,1,2"),
    Case("usual", "study --help", 0, "--strategies=A,B"),
    Case("usual", "schedule --help", 0, "--output FILE"),
    Case("usual", "paper --help", 0, "table1, figure1a"),
    Case("usual", "doctor --help", 0, "--data_dir DIR"),
    Case("usual", "prepare --help", 0, "--manual_dir DIR"),
    Case("usual", f"{TRAIN} --nonsense=1", 2, FLAG),
    Case("usual", f"{REPORT} --nonsense", 2, UNKNOWN),
    Case("usual", f"{COMPARE} --nonsense", 2, UNKNOWN),
    Case("usual", f"{REPLAY} --nonsense", 2, UNKNOWN),
    Case("usual", f"{STUDY_ANEW} --nonsense=1", 2, FLAG),
    Case("usual", f"{SCHEDULE} --nonsense", 2, UNKNOWN),
    Case("usual", f"{PAPER} --nonsense", 2, UNKNOWN),
    Case("usual", f"{DOCTOR} --nonsense", 2, UNKNOWN),
    Case("usual", f"{PREPARE} --nonsense", 2, UNKNOWN),
    # Folders that are not there, and what is not a folder.
    Case("usual", "train --config=@here/none.py", 2, "No such file or directory"),
    Case("usual", "report @here/none", 2, "none/config.json: missing; is @here/none a"),
    Case("usual", "compare @here/none", 2, "no finished run in or below @here/none"),
    Case("usual", "replay @here/none", 2, "@here/none is not a run to replay"),
    Case("usual", "study --config=@here/none.py", 2, "No such file or directory"),
    Case("usual", "schedule @here/none", 2, "@here/none: No such file or directory"),
    Case("usual", "schedule @here", 2, "schedule.json: No such file or directory"),
    Case("usual", "paper all @here/none", 2, "no finished run in or below @here/none"),
    Case("usual", "doctor --data_dir=@here/no", 2, "@here/no is not a folder"),
    Case("usual", "prepare imagenet --data_dir=@here/no", 2, "must be in @here/no/d"),
    Case("usual", f"train {SHORT} --workdir=@run/config.json", 2, "not a writable fo"),
    Case("usual", f"{ONE} --output=@run/config.json", 2, "not a writable fo"),
    Case("usual", "report @run --output=@run/config.json", 2, "not a writable folder"),
    Case("usual", "compare @run --output=@run/config.json", 2, "not a writable folder"),
    Case("usual", "replay @run --output=@run/config.json", 2, "not a writable folder"),
    Case("usual", "schedule @run --output=@run", 2, "must end in .png, .svg or .pdf"),
    Case(
        "usual", "paper all @run --output=@run/config.json", 2, "not a writable folder"
    ),
    Case("usual", "doctor --workdir=@run/config.json", 2, "not a writable folder"),
    Case(
        "usual", "prepare cifar10 --data_dir=@run/config.json", 2, "not a writable fo"
    ),
    Case("usual", "report @run --output=", 2, "a path must not be empty"),
    # ~ is the home.
    Case("read_only", f"train {SHORT} --workdir=~/out", 2, f"--workdir={NO_FOLDER}"),
    Case("usual", "tune ~/out", 0, "file @here/out/schedule.json"),
    Case("usual", "report ~/none", 2, "@here/none/config.json: missing"),
    Case("usual", "report @run --output=~/out", 0, "@here/out/report.html"),
    Case("usual", "compare ~/none", 2, "no finished run in or below @here/none"),
    Case("usual", "compare @run --output=~/out", 0, "@here/out/compare.html"),
    Case("usual", "replay ~/none", 2, "@here/none is not a run to replay"),
    Case("read_only", "replay @run --output=~/out", 2, f"--output={NO_FOLDER}"),
    Case("read_only", f"{ONE} --output=~/out", 2, f"--output={NO_FOLDER}"),
    Case("usual", "schedule ~/none", 2, "@here/none: No such file or directory"),
    Case("usual", "schedule @run --output=~/out.png", 0, "@here/out.png"),
    Case("usual", "paper figure1a @paper --output=~/out", 0, "written to @here/out/"),
    Case("usual", "doctor --workdir=~/out --data_dir=~/none", 2, "@here/none is not a"),
    Case(
        "usual", "prepare cifar10 --data_dir=~/out --from_tfrecord", 2, "in @here/out"
    ),
    Case("usual", "prepare imagenet --data_dir=~ --manual_dir=~/x", 2, "be in @here/x"),
    # An accelerator that is asked for and is not there. (A loop of one's own meets
    # JAX's own error before it comes to tune.)
    Case("no_accelerator", TRAIN, 2, f"{ABSENT}led; there is 1 x cpu (cpu); name what"),
    Case("no_platform", TRAIN, 2, "error: JAX_PLATFORMS=gpus: no such device here, Ba"),
    Case("no_accelerator", f"{TRAIN} --dry_run", 2, ABSENT),
    Case("no_accelerator", REPORT, 0, "@here/out/report.html"),
    Case("no_accelerator", COMPARE, 0, "@here/out/compare.html"),
    Case("no_accelerator", REPLAY, 2, ABSENT),
    Case("no_accelerator", STUDY_ANEW, 2, ABSENT),
    Case("no_accelerator", SCHEDULE, 0, "@here/out.png"),
    Case("no_accelerator", PAPER, 0, "written to @here/out/: figure1a"),
    Case(
        "no_accelerator", DOCTOR, 2, f"error: devices: {ABSENT.removeprefix('error: ')}"
    ),
    Case("no_accelerator", PREPARE, 0, READY),
    # LC_ALL=C, and streams of ASCII alone.
    Case("ascii_only", TRAIN, 0, TRAINED),
    Case("ascii_only", TUNE, 0, "file @here/out/schedule.json"),
    Case("ascii_only", REPORT, 0, "file @here/out/report.html"),
    Case("ascii_only", COMPARE, 0, "file @here/out/compare.html"),
    Case("ascii_only", REPLAY, 0, "over 1 seed; gap"),
    Case("ascii_only", STUDY, 0, "is finished already; nothing to do"),
    Case("ascii_only", "schedule @run", 0, "0\\u20133    0.9  0.999  0.001"),
    Case("ascii_only", PAPER, 0, "| Hyperdyn | 2 | 91.0 \\xb1 1.4 |"),
    Case("ascii_only", "report @here/none", 2, "config.json: missing; is"),
    Case("ascii_only", DOCTOR, 0, "the first of each can be read, 32x32"),
    Case("ascii_only", PREPARE, 0, "300 in split 'train', 60 in split 'test'"),
    # A user id that nobody knows, without a home.
    Case("homeless", TRAIN, 0, TRAINED),
    Case("homeless", f"train {SHORT} --workdir=~/out", 2, NO_HOME),
    Case("homeless", TUNE, 0, "file @here/out/schedule.json"),
    Case("homeless", "tune ~/out", 1, NO_HOME),
    Case("homeless", REPORT, 0, "@here/out/report.html"),
    Case("homeless", "report ~/run", 2, NO_HOME),
    Case("homeless", COMPARE, 0, "@here/out/compare.html"),
    Case("homeless", "compare ~nobody_of_that_name/run", 2, NO_HOME),
    Case("homeless", REPLAY, 0, "over 1 seed; gap"),
    Case("homeless", "replay ~/run", 2, NO_HOME),
    Case("homeless", STUDY, 0, "is finished already; nothing to do"),
    Case("homeless", f"{ONE} --output=~/out", 2, NO_HOME),
    Case("homeless", SCHEDULE, 0, "@here/out.png"),
    Case("homeless", "schedule ~/run", 2, NO_HOME),
    Case("homeless", PAPER, 0, "written to @here/out/: figure1a"),
    Case("homeless", "paper all ~/runs", 2, NO_HOME),
    Case("homeless", DOCTOR, 0, "compiled programs are not kept on disk"),
    Case("homeless", PREPARE, 0, READY),
    Case("homeless", "prepare cifar10 --data_dir=~/data", 2, NO_HOME),
    # A file system that is mounted read-only.
    Case("read_only", TRAIN, 2, f"error: --workdir={NO_FOLDER}"),
    Case("read_only", TUNE, 1, f"ConfigError: workdir={NO_FOLDER}"),
    Case("read_only", REPORT, 2, f"error: --output={NO_FOLDER}"),
    Case("read_only", COMPARE, 2, f"error: --output={NO_FOLDER}"),
    Case("read_only", REPLAY_ANEW, 2, f"error: --output={NO_FOLDER}"),
    Case("read_only", STUDY_ANEW, 2, f"error: --output={NO_FOLDER}"),
    Case("read_only", SCHEDULE, 2, f"error: @here/out.png {REFUSED}"),
    Case("read_only", PAPER, 2, f"error: --output={NO_FOLDER}"),
    Case("read_only", DOCTOR, 2, f"error: disk: --workdir={NO_FOLDER}"),
    Case("read_only", PREPARE_ANEW, 2, f"error: --data_dir={NO_FOLDER}"),
    # One whose server says no when something is written, and not before.
    Case("refused", TRAIN, 2, f"error: --workdir=@here/out {REFUSED}"),
    Case("refused", TUNE, 1, "Read-only file system"),
    Case("refused", REPORT, 2, f"error: @here/out/figures/accuracy.png {REFUSED}"),
    Case("refused", COMPARE, 2, f"error: @here/out/compare.png {REFUSED}"),
    Case(
        "refused", REPLAY_ANEW, 2, f"error: --workdir=@here/out/replay/seed2 {REFUSED}"
    ),
    Case("refused", STUDY_ANEW, 2, f"--workdir=@here/out/constant/seed0 {REFUSED}"),
    Case("refused", SCHEDULE, 2, f"error: @here/out.png {REFUSED}"),
    Case("refused", PAPER, 2, f"error: @here/out/figure1a.png {REFUSED}"),
    Case("refused", DOCTOR, 2, "error: disk: @here: Read-only file system"),
    # One that can neither sync folders nor lock files.
    Case("network", TRAIN, 0, "@here/out cannot sync folders, lock files"),
    Case("network", TUNE, 0, "file @here/out/schedule.json"),
    Case("network", REPORT, 0, "@here/out/report.html"),
    Case("network", COMPARE, 0, "@here/out/compare.html"),
    Case("network", REPLAY, 0, "over 1 seed; gap"),
    Case("network", STUDY, 0, "is finished already; nothing to do"),
    Case("network", SCHEDULE, 0, "@here/out.png"),
    Case("network", PAPER, 0, "written to @here/out/: figure1a"),
    Case("network", DOCTOR, 0, "the file system cannot sync folders"),
    Case("network", PREPARE, 0, READY),
    # | head -1, and >&-.
    Case("unread", TRAIN, 0, "file @here/out/report.html"),
    Case("unread", TUNE, 0, "file @here/out/schedule.json"),
    Case("unread", REPORT, 0, "file @here/out/report.html"),
    Case("unread", COMPARE, 0, "file @here/out/compare.html"),
    Case("unread", REPLAY_ANEW, 0, "file @here/out/replay/seed2/report.html"),
    Case("unread", STUDY_ANEW, 0, "file @here/out/constant/seed0/report.html"),
    Case("unread", "schedule @run", 0, ""),
    Case("unread", "schedule --help", 0, ""),
    Case("unread", PAPER, 0, "file @here/out/figure1a.png"),
    Case("unread", DOCTOR, 0, ""),
    Case("unread", PREPARE, 0, ""),
    Case("closed", TRAIN, 0, "file @here/out/report.html"),
    Case("closed", TUNE, 0, "file @here/out/schedule.json"),
    Case("closed", REPORT, 0, "file @here/out/report.html"),
    Case("closed", COMPARE, 0, "file @here/out/compare.html"),
    Case("closed", REPLAY, 0, ""),
    Case("closed", STUDY, 0, ""),
    Case("closed", SCHEDULE, 0, "file @here/out.png"),
    Case("closed", PAPER, 0, "file @here/out/figure1a.png"),
    Case("closed", DOCTOR, 0, ""),
    Case("closed", PREPARE, 0, ""),
    # The current folder has been removed: whole paths go on.
    Case("removed", TRAIN, 2, GONE),
    Case("removed", TUNE, 0, "file @here/out/schedule.json"),
    Case("removed", REPORT, 0, "@here/out/report.html"),
    Case("removed", "report run", 2, "error: run/config.json: missing"),
    Case("removed", COMPARE, 0, "@here/out/compare.html"),
    Case("removed", "compare @run", 2, "--output=comparison cannot be written: the cu"),
    Case("removed", REPLAY, 2, GONE),
    Case("removed", STUDY, 2, GONE),
    Case("removed", SCHEDULE, 0, "@here/out.png"),
    Case(
        "removed", "schedule @run --output=x.png", 2, "x.png cannot be written: No suc"
    ),
    Case("removed", PAPER, 0, "written to @here/out/: figure1a"),
    Case(
        "removed", "paper all @paper", 2, "--output=paper cannot be written: the curr"
    ),
    Case("removed", DOCTOR, 0, "the first of each can be read, 32x32"),
    Case(
        "removed", "doctor", 2, "error: disk: --workdir=runs cannot be written: the c"
    ),
    Case("removed", PREPARE, 0, READY),
]


class Forks:
    """Processes of which `forked.py` makes one for each case.

    base: of the folders of cases.
    words: of `forked.py`.
    """

    def __init__(self, base: Path, *words: str):
        self.base, self.count = base, 0
        removed = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR")
        environment = {k: v for k, v in os.environ.items() if k not in removed}
        folders = {"MPLCONFIGDIR": base / "matplotlib", "PYTHONPATH": ROOT}
        folders["XDG_CACHE_HOME"] = base / "cache"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "forked.py"), *words],
            env=environment | {name: str(path) for name, path in folders.items()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, command, place="usual", names=()):
        """Exit code, output and errors of a command, and its folder."""
        self.count += 1
        here = self.base / f"{self.count} ä%20#?$x$_:;&'\"[é]"
        here.mkdir()
        words = command.split()
        for name, path in (*names, ("@here", here)):
            words = [word.replace(name, str(path)) for word in words]
        task = {"words": words, "place": place, "here": str(here)}
        self.process.stdin.write(json.dumps(task) + "\n")
        self.process.stdin.flush()
        answer = json.loads(self.process.stdout.readline())
        return answer["code"], answer["out"], answer["err"], here


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("environments")


@pytest.fixture(scope="module")
def forks(base):
    """Of a user with a home and of one without, started when they are asked for."""
    started = {}

    def start(place):
        words = [place] if place == "homeless" else []
        if str(words) not in started:
            folder = base / (place if words else "with_home")
            folder.mkdir()
            started[str(words)] = Forks(folder, *words)
        return started[str(words)]

    yield start
    for each in started.values():
        each.process.stdin.close()
        assert each.process.wait(60) == 0
        each.process.stdout.close()


@pytest.fixture(scope="module")
def names(base, forks):
    """What @here and the like stand for."""
    study = base / "_study $x$ ü"
    made = forks("usual")(STUDY, names=[("@study", study)])
    assert made[0] == 0, made
    run = base / "_a link"
    run.symlink_to(study / "constant" / "seed0")
    assert forks("usual")(REPLAY, names=[("@run", run)])[0] == 0
    for seed in (0, 1):
        for strategy in ("hyperdyn", "manual_sgd"):
            path = base / "paper" / strategy / str(seed)
            write_run(path, [10, 90 + 2 * seed], strategy, seed)
    data = base / "data"
    tfds_fixture.write_cifar10(data)
    return [
        ("@run", run),
        ("@study", study),
        ("@paper", base / "paper"),
        ("@data", data),
    ]


def test_no_command_is_forgotten():
    files = {path.stem: path for path in (ROOT / "hyperdyn_jax").glob("*.py")}
    main = '\nif __name__ == "__main__":'
    modules = {name for name, file in files.items() if main in file.read_text()}
    packages = {path.parent.name for path in ROOT.glob("hyperdyn_jax/*/__main__.py")}
    commands = {case.command.split()[0] for case in CASES}
    assert commands == modules | packages | {"tune"}


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: f"{case.place}-{case.command[:30]}"
)
def test_command(case, forks, names):
    code, out, err, here = forks(case.place)(case.command, case.place, names)
    told = case.told
    for name, path in (*names, ("@here", here)):
        told = told.replace(name, str(path))
    assert code == case.code, (out, err)
    if told.startswith("file "):
        assert Path(told.removeprefix("file ")).stat().st_size
    else:
        assert told in out + err
    if code != 1:  # how a function for other programs fails
        assert "Traceback" not in out + err
        errors = [line for line in err.splitlines() if line.startswith("error: ")]
        assert len(errors) == (code == 2), err
    if code == 2:
        notes = [line for line in err.splitlines() if line.startswith("note: ")]
        assert err.splitlines() == notes + errors
        assert not list(here.iterdir())
    shutil.rmtree(here)
