"""Bad input: every problem at once, a line each, before anything is made or changed."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest
from absl import flags
from paths import ROOT

from hyperdyn_jax import Schedule, loop, report, tune
from hyperdyn_jax.commands import cli
from hyperdyn_jax.run import config, run_dir
from hyperdyn_jax.system import signals

DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}"


def problems(capsys, *words):
    """What the command line is told, and nothing else happens."""
    with pytest.raises(SystemExit) as stop:
        cli.parse_flags(["train.py", *words])
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    lines = err.splitlines()
    assert all(line.startswith("error: ") for line in lines)
    return [line.removeprefix("error: ") for line in lines]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("--config.epoch=3", "--config.epoch is an unknown setting; did you mean epochs?"),
        ("--config.hyperdyn.windw=3", "--config.hyperdyn.windw is an unknown setting; did you mean window?"),
        ("--config.zz.y=3", "--config.zz.y is an unknown setting; there are averaging, backtracking, batch_size, "),
        ("--config.epochs=3.5", "--config.epochs must be a whole number, got '3.5'"),
        ("--config.epochs=many", "--config.epochs must be a whole number, got 'many'"),
        ("--config.hyperdyn.beta=x", "--config.hyperdyn.beta must be a number, got 'x'"),
        ("--config.backtracking=7", "--config.backtracking must be true or false, got '7'"),
        ("--config.scan=False", "--config.scan is an unknown setting; "),
        ("--config.optimizer.decay_all=True", "--config.optimizer.decay_all is an unknown setting; "),
        ("--config.hyperdyn.candidates=64", "--config.hyperdyn.candidates is an unknown setting; "),
        ("--config.hyperdyn=3", "--config.hyperdyn is a section; it has alpha"),
        ("--epochs=3", "'--epochs=3' is not a flag; did you mean --config.epochs?"),
        ("--lr=0.1", "'--lr=0.1' is not a flag; did you mean --config.optimizer.learning_rate?"),
        ("--wrokdir=x", "'--wrokdir=x' is not a flag; did you mean --workdir?"),
        ("--config.lr=0.1", "--config.lr is an unknown setting; did you mean optimizer.learning_rate?"),
        ("--config.learning_rate=0.1", "--config.learning_rate is an unknown setting; did you mean optimizer.learning_rate?"),
        ("--config.lerning_rate=0.1", "--config.lerning_rate is an unknown setting; did you mean optimizer.learning_rate?"),
        ("digits", "'digits' is not a flag; there are --config, --config.x=y, "),
    ],
)  # fmt: skip
def test_flags_that_are_wrong_say_what_would_be_right(capsys, tmp_path, word, message):
    (line,) = problems(capsys, DIGITS, f"--workdir={tmp_path / 'new'}", word)
    assert line.startswith(message)
    assert not (tmp_path / "new").exists()


def test_config_files_that_cannot_be_loaded(capsys, tmp_path):
    (line,) = problems(capsys)
    assert line == "--config is missing, for example --config=configs/digits.py"
    (line,) = problems(capsys, f"--config={tmp_path / 'none.py'}")
    assert line.startswith(f"--config={tmp_path / 'none.py'} cannot be loaded: ")
    assert "No such file" in line
    (tmp_path / "broken.py").write_text("def get_config(:\n")
    (line,) = problems(capsys, f"--config={tmp_path / 'broken.py'}", "--config.x=1")
    assert "cannot be loaded: invalid syntax" in line
    (line,) = problems(capsys, f"{DIGITS}:adagrad")
    assert "after the colon may be optimizer=sgd|plain_sgd|adam|lars|" in line
    assert line.endswith("|salera, got 'adagrad'")


def as_json(content, folder, name="config.json"):
    """The flag of a config that is written down as a run directory's is."""
    (folder / name).write_text(run_dir.dump_config(content))
    return f"--config={folder / name}"


CONFIGS = sorted((ROOT / "configs").glob("*.py"))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_configs_come_back_from_json_as_they_were(tmp_path, file):
    config = cli.load_config(["train.py", f"--config={file}"])
    flag = as_json(config.to_dict(), tmp_path)
    again = cli.load_config(["train.py", flag])
    assert again.to_dict() == config.to_dict()
    assert (
        run_dir.dump_config(again.to_dict()) == (tmp_path / "config.json").read_text()
    )
    for name, value in config.to_dict().items():
        assert type(again.to_dict()[name]) is type(value)
    changes = [
        "--config.averaging=2.5",
        "--config.backtracking=false",
        "--config.hyperdyn.offset=inf",
        "--config.name=inf",
    ]
    changed = [
        cli.load_config(["train.py", f, *changes]) for f in (flag, f"--config={file}")
    ]
    assert changed[0].to_dict() == changed[1].to_dict()
    assert changed[0].averaging == 2.5
    # A number that is not finite comes back as a number.
    content = changed[0].to_dict()
    content["name"] = ""
    third = cli.load_config(["train.py", as_json(content, tmp_path)])
    assert third.to_dict() == content
    assert third.hyperdyn.offset == np.inf


def loaded(*words):
    return cli.load_config(["train.py", *words])


@pytest.mark.parametrize(
    ("words", "value"),
    [
        ((), True),
        (("true",), True),
        (("=True",), True),
        (("=1",), True),
        (("false",), False),
        (("False",), False),
        (("=0",), False),
        (("--config.seed=3",), True),
    ],
)
def test_a_switch_means_what_is_written_after_it(words, value):
    for flag in ("--config.backtracking", "--config.race.backtracking"):
        if words and words[0].startswith("="):
            config = loaded(DIGITS, flag + words[0], *words[1:])
        else:
            config = loaded(DIGITS, flag, *words)
        section = config.race if "race" in flag else config
        assert section[flag.rpartition(".")[2]] is value


def test_a_dry_run_is_one_only_if_it_is_told_so(monkeypatch):
    values = flags.FlagValues()
    cli.define_config(values)
    flags.DEFINE_bool("dry_run", False, "", flag_values=values)
    monkeypatch.setattr(flags, "FLAGS", values)
    for words, value in {("false",): False, ("True",): True, (): True}.items():
        values.unparse_flags()
        cli.parse_flags(["train.py", DIGITS, "--dry_run", *words])
        assert values.dry_run is value


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("optimizer.learning_rate=0.05", 0.05),
        ("optimizer.learning_rate=2", 2),
        ("hyperdyn.beta=1e-3", 1e-3),
        ("epochs=1e3", 1000),
        ("epochs=20.0", 20),
        ("averaging=2", 2),
        ("averaging=None", None),
        ("averaging=none", None),
        ("backtracking=null", None),
        ("save_minutes=None", None),
        ("image_size=32", 32),
        ("trackers=None", "None"),
        ("name=1", "1"),
    ],
)
def test_the_type_of_a_setting_is_not_that_of_its_value_by_chance(
    tmp_path, word, value
):
    """In JSON a rate may be 1, and what is None may be a number."""
    content = settings(image_size=8) | {"averaging": None, "backtracking": None}
    content["optimizer"]["learning_rate"] = content["hyperdyn"]["beta"] = 1
    name = word.partition("=")[0].split(".")
    python = tmp_path / "c.py"
    python.write_text(
        "from ml_collections import FrozenConfigDict\n"
        f"def get_config():\n    return FrozenConfigDict({content!r})\n"
    )
    for flag in (as_json(content, tmp_path), f"--config={python}"):
        found = loaded(flag, f"--config.{word}").to_dict()
        for part in name:
            found = found[part]
        assert (type(found), found) == (type(value), value)


COLON = "def get_config(argument='none'):\n    from ml_collections import ConfigDict\n    return ConfigDict({'name': argument})\n"


@pytest.mark.parametrize(
    "folder",
    ["2026-11-29_12:30:00", "a b", "größe ½", "what?", "a#b", "100%", "a:b:c", "x=y"],
)
def test_folders_may_have_any_name(tmp_path, monkeypatch, folder):
    (tmp_path / folder).mkdir()
    file = tmp_path / folder / "c.py"
    file.write_text(COLON)
    (tmp_path / "link").symlink_to(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (file, f"{folder}/c.py", "link/c.py", f"~/{folder}/c.py"):
        assert loaded(f"--config={place}").name == "none"
        assert loaded(f"--config={place}:adam,x:y").name == "adam,x:y"
    more = cli.load_config(["study", f"--config={file}"], "batch=3")
    assert more.name == "batch=3"
    more = cli.load_config(["study", f"--config={file}:adam"], "batch=3")
    assert more.name == "adam,batch=3"


def test_json_is_checked_as_python_is(capsys, tmp_path):
    flag = as_json(settings(epochs=0), tmp_path)
    lines = problems(capsys, flag, "--config.seed=x", "--config.sed=1")
    assert lines == [
        "--config.seed must be a whole number, got 'x'",
        "--config.sed is an unknown setting; did you mean seed?",
        "config.epochs must be >= 1, got 0",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Expecting property name enclosed in double quotes: line 1 column 2"),
        ("[1, 2]", "it must be an object of settings, got [1, 2]"),
        ("[" * 100_000, "it is nested too deeply"),
        ("\xff", "'utf-8' codec can't decode byte 0xff in position 0"),
        ("", "Expecting value: line 1 column 1"),
        ("def get_config():\n    pass\n", "Expecting value: line 1 column 1"),
    ],
)
def test_damaged_json_is_told_in_a_line(capsys, tmp_path, content, message):
    file = tmp_path / "config.json"
    file.write_bytes(content.encode("latin-1"))
    (line,) = problems(capsys, f"--config={file}")
    assert line.startswith(f"--config={file} cannot be loaded: {message}")
    (line,) = problems(capsys, f"--config={file}:adam")
    assert line.endswith("a JSON file takes no argument, got 'adam'")


def test_nothing_in_json_is_run(tmp_path):
    """Neither as Python, nor by what the loader or a message makes of it."""
    code = f"__import__('pathlib').Path({str(tmp_path / 'run')!r}).touch()"
    content = settings(name=code, model__name=code, hyperdyn__kernel=f"{{{code}}}")
    file = tmp_path / "config.json"
    file.write_text(run_dir.dump_config(content | {code.replace(".", "_"): code}))
    config_dict = cli.load_config(["train.py", f"--config={file}"])
    assert config_dict.name == code
    with pytest.raises(config.ConfigError) as caught:
        config.build(config_dict.to_dict())
    assert len(caught.value.problems) == 3
    assert list(tmp_path.iterdir()) == [file]


def test_all_problems_are_told_at_once(capsys, tmp_path):
    (tmp_path / "file").write_text("")
    lines = problems(
        capsys,
        DIGITS,
        "--config.optimizr.name=sgd",
        "--config.seed=x",
        "--config.epochs=0",
        "--config.batch_size",
        "-3",
        "--config.search_space.learning_rate.low=2",
        "--config.optimizer.momentum=1.0",
        "--config.strategy=hyperdyn",
        "--config.hyperdyn.window=0",
        "--config.model.depth=9",
        f"--workdir={tmp_path / 'file'}",  # which is not looked at
    )
    assert [line.split(" ", 1)[0].rstrip(":") for line in lines] == [
        "--config.optimizr.name",
        "--config.seed",
        "config.epochs",
        "config.batch_size",
        "config.search_space.learning_rate",
        "config.hyperdyn.window",
        "config.optimizer.momentum",
        "config.model.depth",
    ]


def settings(**changes):
    """The digits config with settings replaced; a name a__b is b in the section a.

    In paper mode, which has the most settings to be wrong.
    """
    namespace = {}
    exec((ROOT / "configs" / "digits.py").read_text(), namespace)
    content = namespace["get_config"]().to_dict() | {"strategy": "hyperdyn"}
    for name, value in changes.items():
        *sections, last = name.split("__")
        place = content
        for section in sections:
            place = place[section]
        if value is None:
            del place[last]
        else:
            place[last] = value
    return content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "config.epochs must be >= 1, got 0"),
        ({"epochs": "3"}, "config.epochs must be a whole number, got '3'"),
        ({"epochs": True}, "config.epochs must be a whole number, got True"),
        ({"seed": -1}, "config.seed must be >= 0, got -1"),
        ({"seed": 2**32}, "config.seed must be <= 4,294,967,295, got 4,294,967,296"),
        ({"hyperdyn": 7}, "config.hyperdyn must be a section, got 7"),
        ({"batch_size": 12}, "config.batch_size must be a positive multiple of the number of devices, got 12 for 8 devices"),
        ({"batch_size": 1288}, "config.batch_size must be at most the number of training examples, got 1288 for 1280 examples"),
        ({"eval_batch_size": 3}, "config.eval_batch_size must be a positive multiple of the number of devices, got 3 for 8 devices"),
        ({"dataset": "mnist"}, "config.dataset must be one of characters, cifar10, cifar10_twin, digits, imagenet, got 'mnist'"),
        ({"strategy": "magic"}, "config.strategy must be one of autolrs, "),
        ({"strategy": "explore"}, "config.strategy: strategy 'explore' is gone; 'race' has taken its place"),
        ({"strategy": "cosine", "cosine": {"nope": 1.0}}, "config.cosine sets nope, which the optimizer lacks; it has learning_rate, "),
        ({"strategy": "autolrs", "epochs": 1, "batch_size": 128}, "config.strategy: its shortest trials would be of 0.25 steps"),
        ({"strategy": "race", "epochs": 1, "batch_size": 128, "race": {"max_overhead": 1.0}}, "config.strategy: 10 steps are too few for a race, which takes 48 with max_overhead=1; give"),
        ({"averaging": -1.0}, "config.averaging must be None or a number >= 0, got -1.0"),
        ({"backtracking": 1}, "config.backtracking must be None, true or false, got 1"),
        ({"model__depth": 9}, "config.model.depth must be 6 n + 2"),
        ({"model__name": "vgg"}, "config.model.name must be one of character_mlp, cifar_resnet, resnet, got 'vgg'"),
        ({"optimizer__name": "rms"}, "config.optimizer.name must be one of adam, lars, plain_sgd, prodigy, salera, schedule_free, sgd, got 'rms'"),
        ({"optimizer__momentum": 1.0}, "config.optimizer.momentum must be a number >= 0 and < 1, got 1.0"),
        ({"optimizer__learning_rate": -1.0}, "config.optimizer.learning_rate must be a number >= 0 and finite, got -1.0"),
        ({"optimizer__weight_decay": None}, "config.optimizer.weight_decay is missing"),
        ({"search_space__learning_rate__low": -0.1}, "config.search_space.learning_rate: LogUniform needs low > 0"),
        ({"search_space__learning_rate__low": 1.0}, "config.search_space.learning_rate: LogUniform bounds are reversed: low=1.0 > high=0.5"),
        ({"search_space__learning_rate__kind": "normal"}, "config.search_space.learning_rate: kind must be one of log_complement, log_uniform, uniform, got 'normal'"),
        ({"search_space__momentum__high": 1.0}, "config.search_space.momentum: LogComplement needs high < 1"),
        ({"search_space__b1": {"kind": "uniform", "low": 0.0, "high": 0.9}}, "config.search_space.b1: optimizer 'sgd' has no such hyperparameter; it has learning_rate, momentum, weight_decay"),
        ({"search_space": {}}, "config.search_space needs at least one axis, for example learning_rate, "),
        ({"hyperdyn__temperature": 0.0}, "config.hyperdyn.temperature must be a number > 0 and finite, got 0.0"),
        ({"hyperdyn__kernel": "linear"}, "config.hyperdyn.kernel must be one of ['matern32', 'matern52', 'rbf'], got 'linear'"),
        ({"image_size": "x"}, "config.image_size must be a whole number, got 'x'"),
        ({"optimizer__decay_all": True}, "config.optimizer.decay_all is an unknown setting; "),
        ({"eval_batch_size": None}, "config.eval_batch_size is missing"),
        ({"eval_batchsize": 3}, "config.eval_batchsize is an unknown setting; did you mean eval_batch_size?"),
    ],
)  # fmt: skip
def test_settings_that_are_wrong_say_what_would_be_right(changes, message):
    with pytest.raises(config.ConfigError) as caught:
        config.build(settings(**changes))
    (line,) = caught.value.problems
    assert line.startswith(message)
    assert "\n" not in line


def test_the_config_itself_has_no_problem():
    setup = config.build(settings())
    assert setup.epochs == 20
    assert set(setup.tuner.space) == {"learning_rate", "momentum"}


def test_a_run_of_a_version_without_a_setting_goes_on(tmp_path):
    """As long as the setting says what that version did."""
    earlier = settings()
    assert earlier["race"].pop("warmup") == 0
    (tmp_path / "config.json").write_text(run_dir.dump(earlier))
    assert run_dir.problems(tmp_path, settings()) == []
    (line,) = run_dir.problems(tmp_path, settings(race__warmup=5))
    assert "config.race.warmup is 5 here, 0 there" in line


def test_a_directory_of_another_config_is_left_alone(tmp_path):
    (tmp_path / "config.json").write_text(run_dir.dump(settings()))
    (tmp_path / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(config.ConfigError) as caught:
        loop.train_and_evaluate(settings(epochs=3, optimizer__momentum=0.5), tmp_path)
    (line,) = caught.value.problems
    assert "holds a run of another config" in line
    assert "config.epochs is 3 here, 20 there" in line
    assert "config.optimizer.momentum is 0.5 here, 0.9 there" in line
    assert json.loads((tmp_path / "config.json").read_text()) == settings()
    assert (tmp_path / "metrics.jsonl").read_text() == "{}\n"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"config.json": "{"}, "config.json is damaged: Expecting property name"),
        ({"metrics.jsonl": "{}"}, "holds metrics.jsonl but no config.json"),
    ],
)
def test_directories_that_are_no_run_are_left_alone(tmp_path, files, message):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (line,) = run_dir.problems(tmp_path, settings())
    assert message in line
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == files


def test_a_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    (line,) = run_dir.problems(tmp_path / "file" / "run", settings())
    assert line.startswith(f"--workdir={tmp_path / 'file' / 'run'} cannot be written")


def test_the_command_exits_with_2_and_no_traceback(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), DIGITS, "--config.epochs=-1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: config.epochs must be >= 1, got -1\n"
    assert list(tmp_path.iterdir()) == []


def test_a_signal_is_exit_code_0_and_a_full_disk_75(capsys):
    def stopped():
        signal.raise_signal(signal.SIGTERM)
        while True:
            signals.check()

    def full():
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.jsonl")

    assert cli.exit_code(stopped) == 0
    assert cli.exit_code(full) == 75
    stop, error = capsys.readouterr().err.splitlines()
    assert stop == signals.SAVED
    assert error.startswith("error: metrics.jsonl: No space left on device; make room")


def directory_with(tmp_path, decisions, metrics, rows):
    """A run directory with so many rows, and a checkpoint that counts `rows`."""
    with run_dir.RunDirectory(tmp_path, settings()) as directory:
        directory.rows = {"decisions": [{}] * rows, "metrics": [{}] * rows}
        directory._written = {"decisions": rows, "metrics": rows}
        directory.checkpoints.save(
            {"x": np.zeros(2)}, {"rows": {"decisions": rows, "metrics": rows}}
        )
    (tmp_path / "decisions.jsonl").write_text(decisions)
    (tmp_path / "metrics.jsonl").write_text(metrics)


@pytest.mark.parametrize(
    ("decisions", "message"),
    [
        ("{}\n", "decisions.jsonl has 1 rows, but the checkpoint comes after 3"),
        ("{}\n{\n{}\n", "decisions.jsonl, row 2, is damaged: Expecting"),
    ],
)
def test_rows_that_do_not_fit_the_checkpoint_are_told(tmp_path, decisions, message):
    directory_with(tmp_path, decisions, "{}\n" * 3, rows=3)
    with pytest.raises(config.ConfigError) as caught:
        run_dir.RunDirectory(tmp_path, settings())
    (line,) = caught.value.problems
    assert message in line
    assert (tmp_path / "decisions.jsonl").read_text() == decisions


def test_rows_without_their_checkpoint_are_not_thrown_away(tmp_path):
    directory_with(tmp_path, "{}\n" * 3, "{}\n" * 3, rows=3)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(config.ConfigError, match="3 rows, but no checkpoint"):
        run_dir.RunDirectory(tmp_path, settings())
    assert (tmp_path / "decisions.jsonl").read_text() == "{}\n" * 3


def test_checkpoints_of_an_unknown_config_are_not_taken(tmp_path):
    directory_with(tmp_path, "", "", rows=0)
    for name in ("config.json", "decisions.jsonl", "metrics.jsonl"):
        (tmp_path / name).unlink()
    with pytest.raises(config.ConfigError, match=r"holds checkpoints but no config"):
        run_dir.RunDirectory(tmp_path, settings())


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


def test_home_is_written_as_a_tilde(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    (home / "x").write_text("")
    for call in (loop.check, loop.train_and_evaluate):
        with pytest.raises(config.ConfigError) as caught:
            call(settings(), "~/x")
        (line,) = caught.value.problems
        assert (
            line
            == f"--workdir={home / 'x'} cannot be written: {home / 'x'} is not a writable folder"
        )
    for change in (
        {"fork": "~/run"},
        {"strategy": "replay", "replay": {"run": "~/run"}},
        {"dataset": "cifar10", "data_dir": "~/run"},
    ):
        with pytest.raises(config.ConfigError) as caught:
            loop.check(settings() | change, None)
        assert any(str(home / "run") in line for line in caught.value.problems)

    def halve(w, hparams, steps):  # noqa: ARG001 (as `tune` calls it)
        return w * 0.5

    schedule, one = Schedule.constant(learning_rate=0.1), jax.random.key(0)
    result = tune(
        halve, lambda w: -abs(w), 1.0, schedule,
        epochs=1, steps_per_epoch=1, key=one, workdir="~/tuned",
    )  # fmt: skip
    assert result.state == 0.5
    assert (home / "tuned" / "metrics.jsonl").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_a_home_that_there_is_not_is_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as without HOME
    for call in (loop.check, loop.train_and_evaluate):
        with pytest.raises(config.ConfigError) as caught:
            call(settings(), "~/x")
        assert caught.value.problems == ["--workdir=~/x: there is no such home folder"]
    assert list(tmp_path.iterdir()) == []


def test_one_folder_may_be_written_in_several_ways(tmp_path, monkeypatch, home):
    monkeypatch.chdir(tmp_path)
    (home / "x").mkdir()
    (tmp_path / "link").symlink_to(home)
    run = tmp_path / "run"
    run_dir.RunDirectory(
        run, settings() | {"fork": "home/x", "data_dir": "~/x"}
    ).__exit__()
    for name in (
        "home/x/",
        "link/x",
        "~/x",
        str(home / "x"),
        "home/../home/x",
        "./home/x",
    ):
        same = settings() | {"fork": name, "data_dir": name}
        assert run_dir.problems(run, same) == []
    for other in ("home", "home/y", ""):
        (line,) = run_dir.problems(run, settings() | {"fork": other, "data_dir": "~/x"})
        assert "config.fork is " in line


def test_names_that_no_folder_can_have_are_a_line(tmp_path):
    for name, why in {
        "x" * 300: "File name too long",
        "\udcff": "is not text in UTF-8",
    }.items():
        path = tmp_path / name
        with pytest.raises(config.ConfigError) as caught:
            run_dir.RunDirectory(path, settings())
        (line,) = caught.value.problems
        assert why in line


@pytest.mark.parametrize("cause", ["none", "file", "read-only"])
def test_a_user_without_a_cache_is_told_so(tmp_path, monkeypatch, capsys, cause):
    """A batch job's user often has no home, or one that cannot be written to."""
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    if cause == "none":
        monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    else:
        monkeypatch.setenv("HOME", str(tmp_path))
    if cause == "file":
        (tmp_path / ".cache").write_text("")
    if cause == "read-only":
        monkeypatch.setattr(os, "access", lambda *_: False)
    try:
        cli.keep_programs()
        assert jax.config.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("note: compiled programs are not kept: ")
    assert len(err.splitlines()) == 1


def test_a_report_that_cannot_be_written_does_not_fail_a_run(tmp_path, monkeypatch):
    def write_report(_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(report, "write_report", write_report)
    told = loop._report(tmp_path)
    assert "No usable temporary directory" in told
    assert f"python -m hyperdyn_jax.report {tmp_path}" in told


def test_a_directory_in_use_is_left_to_its_process(tmp_path):
    first = run_dir.RunDirectory(tmp_path, settings())
    with pytest.raises(config.ConfigError, match="in use by another process"):
        run_dir.RunDirectory(tmp_path, settings())
    first.__exit__()
    run_dir.RunDirectory(tmp_path, settings()).__exit__()


def test_infinite_settings_are_told_apart(tmp_path):
    always, never = (settings(hyperdyn__offset=x) for x in (np.inf, -np.inf))
    run_dir.RunDirectory(tmp_path, always).__exit__()
    assert (
        json.loads((tmp_path / "config.json").read_text())["hyperdyn"]["offset"]
        == "inf"
    )
    assert run_dir.problems(tmp_path, always) == []
    (line,) = run_dir.problems(tmp_path, never)
    assert "config.hyperdyn.offset is '-inf' here, 'inf' there" in line
