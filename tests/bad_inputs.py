"""Everything that a user can get wrong, and the lines that say so.

`test_bad_inputs` tries each in this process and `benchmarks/faults_boundary.py` each as
the command that a user gives: exit code 2, these lines and no others, nothing compiled
and nothing changed.
"""

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tfds_fixture
from paths import ROOT

from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import run_dir

DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"
CIFAR = f"--config={ROOT / 'configs' / 'cifar10.py'}:smoke"
IMAGENET = f"--config={ROOT / 'configs' / 'imagenet.py'}:smoke"
DEVICES = 8  # what is divided among them


class Case(NamedTuple):
    """One command line. HERE in it and in the lines is a folder of its own.

    name: of the fault, in words.
    words: of the command line, but for --workdir=HERE/run where it has none.
    lines: how each line of the answer begins.
    prepare: puts into the folder what the command line is about; what it yields lasts
      until the command has ended.
    late: it cannot be known before something is compiled.
    """

    name: str
    words: tuple[str, ...]
    lines: tuple[str, ...]
    prepare: Callable[[Path], Any] | None = None
    late: bool = False

    def command(self, here: Path) -> list[str]:
        """The words of the command line."""
        words = [word.replace("HERE", str(here)) for word in self.words]
        if not any(word.startswith("--workdir") for word in words):
            words.append(f"--workdir={here / 'run'}")
        return words

    def expected(self, here: Path) -> list[str]:
        """How each line begins."""
        return [f"error: {line}".replace("HERE", str(here)) for line in self.lines]

    @contextlib.contextmanager
    def prepared(self, here: Path) -> Iterator[None]:
        """While it is in force the folder holds what the command line is about."""
        made = self.prepare(here) if self.prepare else None
        with made if hasattr(made, "__enter__") else contextlib.nullcontext():
            yield


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file's bytes, and None for every folder, by path."""
    return {
        str(path): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def digits(*settings: str) -> tuple[str, ...]:
    return (DIGITS, *(f"--config.{setting}" for setting in settings))


def file(name: str, content: str | bytes) -> Callable[[Path], None]:
    """Writes one file."""

    def prepare(here: Path) -> None:
        path = here / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())

    return prepare


def as_json(**changes: Any) -> Callable[[Path], None]:
    """The digits config as HERE/config.json, with settings replaced; None removes."""

    def prepare(here: Path) -> None:
        content = cli.load_config(["train.py", DIGITS]).to_dict()
        for name, value in changes.items():
            *sections, last = name.split("__")
            place = content
            for section in sections:
                place = place[section]
            place[last] = value
            if value is None:
                del place[last]
        file("config.json", json.dumps(content))(here)

    return prepare


def run_directory(
    damage: Callable[[Path], None] | None = None, *settings: str
) -> Callable[[Path], None]:
    """HERE/run as a run of the digits config leaves it, then damaged."""

    def prepare(here: Path) -> None:
        config = cli.load_config(["train.py", *digits(*settings)]).to_dict()
        for number in range(4):  # opened anew, so that each row is written
            with run_dir.RunDirectory(here / "run", config) as directory:
                directory.resume()
                row = {"decisions": {"epoch": number, "branch": -1}}
                directory.commit(row, {"x": np.zeros(2)}, {})
        if damage:
            damage(here / "run")

    return prepare


def held(here: Path) -> run_dir.RunDirectory:
    """HERE/run while another process has it."""
    config = cli.load_config(["train.py", DIGITS]).to_dict()
    return run_dir.RunDirectory(here / "run", config)


def damage_row(run: Path) -> None:
    lines = (run / "decisions.jsonl").read_text().splitlines()
    lines[1] = lines[1][:-3]
    (run / "decisions.jsonl").write_text("\n".join(lines) + "\n")


def damage_checkpoints(run: Path) -> None:
    for facts in run.glob("checkpoints/*/facts.json"):
        facts.write_text("{}")


def cifar10(
    damage: Callable[[Path], None] | None = None, **arguments: Any
) -> Callable[[Path], None]:
    """HERE/data/cifar10: ten training and two test images, then damaged."""

    def prepare(here: Path) -> None:
        examples = {
            "train": tfds_fixture.cifar_examples(20, 0),
            "test": tfds_fixture.cifar_examples(2, 1),
        }
        for place, change in arguments.get("bad", {}).items():
            examples["train"][place] |= change
        examples |= {"test": []} if arguments.get("empty") else {}
        classes = arguments.get("classes", 10)
        folder = tfds_fixture.write_cifar10(
            here / "data", examples["train"], examples["test"], classes
        )
        if damage:
            damage(folder)

    return prepare


def more_classes(folder: Path) -> None:
    """So that the description does not show what the records have."""
    features = folder / "features.json"
    features.write_text(features.read_text().replace('"11"', '"10"'))


def as_tfrecord(folder: Path) -> None:
    info = folder / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))


def bad_imagenet(here: Path) -> None:
    examples = tfds_fixture.imagenet_examples(20, 0)
    for example in examples:
        example["image"] = b"no image"
    tfds_fixture.write_imagenet(here / "data", examples)


TRAIN = "split 'train', shard cifar10-train.array_record-0000"
PREPARE = "python -m hyperdyn_jax.prepare cifar10 --data_dir=HERE/data"
DATA = (CIFAR, "--config.data_dir=HERE/data", "--config.batch_size=8")
JSON = ("--config=HERE/config.json",)
RATE = "config.search_space.learning_rate: LogUniform "

CASES = [
    # The command line.
    Case("a typo in a setting", digits("epoch=3"), ("--config.epoch is an unknown setting; did you mean epochs?",)),
    Case("a typo in a section", digits("hyperdyn.windw=3"), ("--config.hyperdyn.windw is an unknown setting; did you mean window?",)),
    Case("an unknown section", digits("zz.y=3"), ("--config.zz.y is an unknown setting; there are averaging, backtracking, batch_size,",)),
    Case("text for a number", digits("epochs=many"), ("--config.epochs must be a whole number, got 'many'",)),
    Case("a fraction for a whole number", digits("epochs=3.5"), ("--config.epochs must be a whole number, got '3.5'",)),
    Case("a number for a switch", digits("backtracking=7"), ("--config.backtracking must be true or false, got '7'",)),
    Case("a value for a section", digits("hyperdyn=3"), ("--config.hyperdyn is a section; it has alpha, beta,",)),
    Case("an unknown flag", (DIGITS, "--epochs=3"), ("'--epochs=3' is not a flag; did you mean --config.epochs?",)),
    Case("a stray word", (DIGITS, "--workdir=HERE/run", "fast"), ("'fast' is not a flag; there are --config, --config.x=y, --coordinator, ",)),
    Case("a stray word after a switch", (DIGITS, "--dry_run", "true", "false"), ("'false' is not a flag; there are --config, --config.x=y, --coordinator, ",)),
    Case("a word that is no switch", (*digits("backtracking"), "maybe"), ("--config.backtracking must be true or false, got 'maybe'",)),
    Case("a switch that is turned off in another way", (DIGITS, "--nodry_run", "--noconfig.backtracking"), ("'--nodry_run' is not a flag;", "'--noconfig.backtracking' is not a flag;")),
    Case("a setting without a value", (*digits("epochs"), "--dry_run"), ("--config.epochs needs a value; it must be a whole number",)),
    Case("no config", (), ("--config is missing, for example --config=configs/digits.py",)),
    # The config file.
    Case("a config that is not there", ("--config=HERE/none.py",), ("--config=HERE/none.py cannot be loaded: No such file or directory",)),
    Case("a config that the package has not", ("--config=digit",), ("--config=digit cannot be loaded: No such file or directory; the package has characters, cifar10,",)),
    Case("a JSON config that is not there", JSON, ("--config=HERE/config.json cannot be loaded: No such file or directory",)),
    Case("a syntax error", ("--config=HERE/x.py",), ("--config=HERE/x.py cannot be loaded: invalid syntax (x.py, line 2)",), file("x.py", "import os\ndef get_config(:\n")),
    Case("no get_config", ("--config=HERE/x.py",), ("--config=HERE/x.py cannot be loaded: it has no get_config()",), file("x.py", "epochs = 3\n")),
    Case("a config of another kind", ("--config=HERE/x.py",), ("--config=HERE/x.py cannot be loaded: get_config() must return a ConfigDict, got 7",), file("x.py", "def get_config():\n    return 7\n")),
    Case("an error in a config", ("--config=HERE/x.py",), ("--config=HERE/x.py cannot be loaded: ZeroDivisionError: division by zero",), file("x.py", "def get_config():\n    return 1 / 0\n")),
    Case("an unknown argument", (f"{DIGITS}:adagrad",), (f"{DIGITS}:adagrad cannot be loaded: after the colon may be optimizer=sgd|",)),
    Case("damaged JSON", JSON, ("--config=HERE/config.json cannot be loaded: Expecting ',' delimiter: line 2 column 1",), file("config.json", '{"epochs": 3\n"seed": 0}')),
    Case("JSON that is no object", JSON, ("--config=HERE/config.json cannot be loaded: it must be an object of settings, got [3]",), file("config.json", "[3]")),
    Case("JSON with an argument", ("--config=HERE/config.json:adam",), ("--config=HERE/config.json:adam cannot be loaded: a JSON file takes no argument, got 'adam'",), as_json()),
    Case("the wrong type in JSON", JSON, ("config.seed must be a whole number, got True", "config.epochs must be a whole number, got '3'", "config.model must be a section, got 'resnet'"), as_json(epochs="3", seed=True, model="resnet")),
    Case("settings missing in JSON", JSON, ("config.eval_batch_size is missing", "config.optimizer.weight_decay is missing"), as_json(eval_batch_size=None, optimizer__weight_decay=None)),
    Case("typos in JSON", JSON, ("config.sede is an unknown setting; did you mean seed?", "config.hyperdyn.windw is an unknown setting; did you mean window?", "config.optimizer.momentun is an unknown setting; did you mean momentum?", "config.model.dept is an unknown setting; did you mean depth?"), as_json(sede=3, hyperdyn__windw=3, optimizer__momentun=0.5, model__dept=8)),
    Case("half an axis in JSON", JSON, ("config.search_space.learning_rate: it lacks high", "config.search_space.momentum: it must be a section of kind, low and high, got 3"), as_json(search_space__learning_rate__high=None, search_space__momentum=3)),
    Case("no axis in JSON", JSON, ("config.search_space needs at least one axis, for example learning_rate",), as_json(search_space={})),
    Case("a number that no float holds", JSON, ("config.optimizer.learning_rate must be a number >= 0 and finite, got 1000",), as_json(optimizer__learning_rate=10**4000)),
    # Settings.
    Case("no epochs", digits("epochs=0"), ("config.epochs must be >= 1, got 0",)),
    Case("far too many epochs", digits("epochs=2000000000"), ("config.epochs must be <= 1,000,000, got 2,000,000,000",)),
    Case("a seed that is too large", digits("seed=4294967296"), ("config.seed must be <= 4,294,967,295, got 4,294,967,296",)),
    Case("a negative batch", digits("batch_size=-8"), ("config.batch_size must be >= 1, got -8",)),
    Case("batches that do not divide", digits("batch_size=12", "eval_batch_size=3"), ("config.batch_size must be a positive multiple of the number of devices, got 12 for 8 devices", "config.eval_batch_size must be a positive multiple of the number of devices, got 3 for 8 devices")),
    Case("a batch larger than the data", digits("batch_size=1288"), ("config.batch_size must be at most the number of training examples, got 1288 for 1280 examples",)),
    Case("a negative rate", digits("optimizer.learning_rate=-1"), ("config.optimizer.learning_rate must be a number >= 0 and finite, got -1.0",)),
    Case("a rate that is no number", digits("optimizer.learning_rate=nan"), ("config.optimizer.learning_rate must be a number >= 0 and finite, got nan",)),
    Case("an infinite rate", digits("optimizer.learning_rate=inf"), ("config.optimizer.learning_rate must be a number >= 0 and finite, got inf",)),
    Case("a rate of zero to start from", digits("optimizer.learning_rate=0"), ("config.race: a race needs a learning_rate > 0, got 0",)),
    Case("a momentum of one", digits("optimizer.momentum=1.0"), ("config.optimizer.momentum must be a number >= 0 and < 1, got 1.0",)),
    Case("reversed bounds", digits("search_space.learning_rate.low=2"), (f"{RATE}bounds are reversed: low=2.0 > high=0.5",)),
    Case("a bound of zero on a logarithmic axis", digits("search_space.learning_rate.low=0"), (f"{RATE}needs low > 0 (at least 1e-37), got low=0.0; use Uniform",)),
    Case("an infinite bound", digits("search_space.learning_rate.high=inf"), (f"{RATE}bounds must be finite",)),
    Case("a bound that is no number", digits("search_space.learning_rate.high=nan"), (f"{RATE}bounds must be finite",)),
    Case("a momentum of one in the space", digits("search_space.momentum.high=1"), ("config.search_space.momentum: LogComplement needs high < 1",)),
    Case("an unknown axis", digits("search_space.momentum.kind=normal"), ("config.search_space.momentum: kind must be one of log_complement, log_uniform, uniform, got 'normal'",)),
    Case("an axis that the optimizer lacks", JSON, ("config.search_space.b1: optimizer 'sgd' has no such hyperparameter; it has learning_rate, momentum, weight_decay",), as_json(search_space__b1={"kind": "uniform", "low": 0.0, "high": 0.9})),
    Case("an unknown strategy", digits("strategy=magic"), ("config.strategy must be one of autolrs, constant,",)),
    Case("an unknown optimizer", digits("optimizer.name=rms"), ("config.optimizer.name must be one of adam, lars,",)),
    Case("an unknown model", digits("model.name=vgg"), ("config.model.name must be one of character_mlp, cifar_resnet, resnet, got 'vgg'",)),
    Case("an unknown data set", digits("dataset=mnist"), ("config.dataset must be one of characters, cifar10, cifar10_twin, digits, imagenet, got 'mnist'",)),
    Case("a depth that there is not", digits("model.depth=9"), ("config.model.depth must be 6 n + 2 (8, 14, 20, 32, 44, 56, 110), got 9",)),
    Case("a setting of a strategy that is not chosen", digits("hyperdyn.window=0"), ("config.hyperdyn.window must be a whole number >= 1, got 0",)),
    Case("several settings of one section", digits("hyperdyn.window=0", "hyperdyn.temperature=nan", "hyperdyn.kernel=linear", "race.max_overhead=0"), ("config.hyperdyn.kernel must be one of ", "config.hyperdyn.temperature must be a number > 0 and finite, got nan", "config.hyperdyn.window must be a whole number >= 1, got 0", "config.race.max_overhead must be a number > 0 and finite, got 0.0")),
    Case("a share that is no number", digits("race.max_overhead=nan"), ("config.race.max_overhead must be a number > 0 and finite, got nan",)),
    Case("an axis to tune that there is not", digits("race.tune=momentum,b1"), ("config.race.tune must be one or more of learning_rate, momentum, got 'b1'",)),
    Case("fewer epochs than a race takes", digits("epochs=1", "batch_size=128"), ("config.strategy: 10 steps are too few for a race, which takes 144 with max_overhead=0.2; give more epochs",)),
    Case("fewer steps than a stage takes", digits("epochs=1", "batch_size=128", "strategy=autolrs"), ("config.strategy: its shortest trials would be of 0.25 steps; more epochs,",)),
    Case("settings in the section of a strategy that takes those of another", digits("strategy=greedy", "greedy.window=8"), ("config.greedy has no effect; give config.hyperdyn.window",)),
    Case("an unknown tracker", digits("trackers=wb"), ("config.trackers must be one or more of tensorboard, wandb, mlflow, got 'wb'",)),
    Case("an average of a negative power", digits("averaging=-1"), ("config.averaging must be None or a number >= 0, got -1.0",)),
    Case("a run to replay that is not there", JSON, ("config.replay.run: [Errno 2] No such file or directory: 'HERE/none'",), lambda here: as_json(strategy="replay", replay={"run": str(here / "none")})(here)),
    # Data.
    Case("no data directory", (CIFAR,), ("config.dataset: cifar10 needs data_dir, the TFDS folder",)),
    Case("no data in it", DATA, (f"config.dataset: there is no cifar10 in HERE/data (there is no HERE/data/cifar10/<version>/dataset_info.json); prepare it with: {PREPARE}",)),
    Case("unfinished data", DATA, ("config.dataset: there is only unfinished cifar10 in HERE/data",), cifar10(lambda folder: folder.rename(folder.with_name("incomplete.A1B2C3_3.0.2")))),
    Case("a damaged description", DATA, ("config.dataset: the description of cifar10 in HERE/data/cifar10/3.0.2 cannot be read",), cifar10(lambda folder: (folder / "dataset_info.json").write_text('{"name": '))),
    Case("a missing shard", DATA, ("config.dataset: cifar10 in HERE/data/cifar10/3.0.2 is not whole, cifar10-test.array_record-00001-of-00003 is missing",), cifar10(lambda folder: (folder / "cifar10-test.array_record-00001-of-00003").unlink())),
    Case("an empty split", DATA, ("config.dataset: split 'test' of cifar10 in HERE/data/cifar10/3.0.2 is empty",), cifar10(empty=True)),
    Case("data in a format that has no numbers", DATA, ("config.dataset: cifar10 in HERE/data/cifar10/3.0.2 is stored as tfrecord, which cannot be read by number; convert it with: ",), cifar10(as_tfrecord)),
    Case("another number of classes", DATA, ("config.dataset: HERE/data/cifar10/3.0.2 has 100 classes, cifar10 has 10",), cifar10(classes=100)),
    Case("a label out of range", DATA, (f"config.dataset: {TRAIN}1-of-00003, record 1: label 10 is out of range, must be in 0..9",), cifar10(more_classes, bad={7: {"label": 10}}, classes=11)),
    Case("an image that is none", DATA, (f"config.dataset: {TRAIN}1-of-00003, record 1: the image cannot be decoded",), cifar10(bad={7: {"image": b"no image"}})),
    Case("an image of another size", DATA, (f"config.dataset: {TRAIN}1-of-00003, record 1: the image has 40x32 pixels, must have 32x32",), cifar10(bad={7: {"image": tfds_fixture.encode(np.zeros((40, 32, 3), np.uint8))}})),
    Case("a damaged shard", DATA, (f"config.dataset: {TRAIN}2-of-00003, record 0: cannot be read: ",), cifar10(lambda folder: (folder / "cifar10-train.array_record-00002-of-00003").write_bytes(b""))),
    Case("one bad record more than allowed", (*DATA, "--config.skip_bad_records=1"), (f"config.dataset: {TRAIN}1-of-00003, record 2: the image cannot be decoded (one more than skip_bad_records=1 leaves out)",), cifar10(bad={7: {"image": b""}, 8: {"image": b""}})),
    Case("fewer than no bad records", (*DATA, "--config.skip_bad_records=-1"), ("config.skip_bad_records must be >= 0, got -1",), cifar10()),
    Case("missing data and two wrong settings", (*DATA, "--config.batch_size=0", "--config.pad=x"), ("--config.pad must be a whole number, got 'x'", "config.batch_size must be >= 1, got 0", "config.dataset: there is no cifar10 in HERE/data")),
    Case("a bad image met while training", (IMAGENET, "--config.data_dir=HERE/data"), ("split '",), bad_imagenet, late=True),
    # The run directory.
    Case("a run directory under a file", (DIGITS, "--workdir=HERE/file/run"), ("--workdir=HERE/file/run cannot be written: HERE/file is not a writable folder",), file("file", "")),
    Case("a run directory that is a file", (DIGITS, "--workdir=HERE/file"), ("--workdir=HERE/file cannot be written: HERE/file is not a writable folder",), file("file", "")),
    Case("a wrong setting beside a run directory of another config", digits("epochs=0"), ("config.epochs must be >= 1, got 0",), run_directory()),
    Case("a stray word beside a run directory of another config", (*digits("epochs=9"), "fast"), ("'fast' is not a flag",), run_directory()),
    Case("a run directory of another config", digits("epochs=9"), ("--workdir=HERE/run holds a run of another config; choose the same settings, or another directory, where --fork=HERE/run starts",), run_directory()),
    Case("no run to fork", (DIGITS, "--fork=HERE/none"), ("--fork=HERE/none is no folder",)),
    Case("a run directory in use", (DIGITS,), ("--workdir=HERE/run is in use by another process",), held),
    Case("a damaged config.json", (DIGITS,), ("--workdir=HERE/run: config.json is damaged: Expecting",), file("run/config.json", '{"epochs": ')),
    Case("a config.json that is none", (DIGITS,), ("--workdir=HERE/run: config.json is damaged: it is not an object of settings",), file("run/config.json", "[1]")),
    Case("rows without a config", (DIGITS,), ("--workdir=HERE/run holds metrics.jsonl but no config.json",), file("run/metrics.jsonl", "{}\n")),
    Case("a damaged row in the middle", (DIGITS,), ("--workdir=HERE/run: decisions.jsonl, row 2, is damaged: Expecting",), run_directory(damage_row)),
    Case("rows that are gone", (DIGITS,), ("--workdir=HERE/run: decisions.jsonl has 0 rows, but the checkpoint comes after 4",), run_directory(lambda run: (run / "decisions.jsonl").write_text(""))),
    Case("checkpoints that are gone", (DIGITS,), ("--workdir=HERE/run: decisions.jsonl has 4 rows, but no checkpoint",), run_directory(lambda run: shutil.rmtree(run / "checkpoints"))),
    Case("checkpoints that are all damaged", (DIGITS,), ("--workdir=HERE/run: every checkpoint is damaged: ",), run_directory(damage_checkpoints)),
    # And all at once.
    Case(
        "twelve problems at once",
        (
            *digits("optimizr.name=sgd", "seed=x", "epochs=0", "batch_size=-3", "eval_batch_size=12", "search_space.learning_rate.low=2", "optimizer.momentum=1.0", "optimizer.learning_rate=-1", "hyperdyn.window=0", "hyperdyn.alpha=0", "model.depth=9", "pad=-1"),
            "--workdir=HERE/file",  # is not looked at
        ),
        (
            "--config.optimizr.name is an unknown setting; did you mean optimizer?",
            "--config.seed must be a whole number, got 'x'",
            "config.epochs must be >= 1, got 0",
            "config.batch_size must be >= 1, got -3",
            "config.pad must be >= 0, got -1",
            f"{RATE}bounds are reversed: low=2.0 > high=0.5",
            "config.eval_batch_size must be a positive multiple of the number of devices, got 12 for 8 devices",
            "config.hyperdyn.alpha must be a number > 0 and finite, got 0.0",
            "config.hyperdyn.window must be a whole number >= 1, got 0",
            "config.optimizer.learning_rate must be a number >= 0 and finite, got -1.0",
            "config.optimizer.momentum must be a number >= 0 and < 1, got 1.0",
            "config.model.depth must be 6 n + 2",
        ),
        file("file", ""),
    ),
]  # fmt: skip
