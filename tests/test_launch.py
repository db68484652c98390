"""The launch recipes: their flags are the program's, and a stopped run goes on."""

import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
import yaml
from absl import flags
from paths import ROOT

from hyperdyn_jax.commands import cli

pytestmark = pytest.mark.slow

SMALL = (
    "--config.strategy=cosine",
    "--config.epochs=2",
    "--config.batch_size=4096",
    "--config.model.width=8",
)
FILES = (
    "docs/launch.md",
    "docs/paper.md",
    "docs/processes.md",
    "launch/slurm.sbatch",
    "launch/sky.yaml",
)
VARIABLES = {
    "CONFIG": "configs/imagenet.py",
    "DATA": "/data",
    "HOME": "/home/me",
    "RUN": "runs/imagenet",
}


def _variable(name):
    return VARIABLES.get(name[1], name[0])


def commands():
    """Every call of train.py in the recipes, as (file, words)."""
    jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    (container,) = job["template"]["spec"]["template"]["spec"]["containers"]
    assert container["command"][0] == "launch/run.sh"
    yield "launch/jobset.yaml", container["command"][1:]
    for file in FILES:
        text = (ROOT / file).read_text().replace("\\\n", " ")
        for found in re.findall(r"^.*?(?:train\.py|run\.sh) +(--.*)$", text, re.M):
            line = re.sub(r"\$([A-Z]+)", _variable, found.replace('"$@"', ""))
            line += '"' * (line.count('"') % 2)  # of a command within one
            yield file, [word for word in shlex.split(line, True) if word]


def test_every_flag_of_the_recipes_is_one_of_the_program(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    seen = set()
    for file, words in commands():
        # Settings alone: what they say of data is for the machine that has them.
        argv, values = ["train.py", *words], flags.FlagValues()
        cli.define_config(values)
        for name in (*cli.PLACE, "fork", "workdir"):
            flags.DEFINE_string(name, None, "", flag_values=values)
        monkeypatch.setattr(flags, "FLAGS", values)
        cli.parse_flags(argv)
        assert capsys.readouterr().err == ""
        seen.add(file)
    assert seen == {*FILES, "launch/jobset.yaml"}


def devices():
    """How many each recipe for several machines has, by its file."""
    slurm = (ROOT / "launch" / "slurm.sbatch").read_text()
    nodes, each = (
        int(re.search(rf"--{name}=(\d+)", slurm)[1])
        for name in ("nodes", "gpus-per-node")
    )
    yield "launch/slurm.sbatch", nodes * each
    jobset = yaml.safe_load((ROOT / "launch" / "jobset.yaml").read_text())
    spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    chips = container["resources"]["limits"]["google.com/tpu"]
    yield "launch/jobset.yaml", spec["parallelism"] * chips


def test_batches_divide_over_the_devices_of_a_recipe(monkeypatch):
    monkeypatch.chdir(ROOT)
    known = dict(devices())
    for file, words in commands():
        if any(word.startswith("--coordinator") for word in words) and file in known:
            config = [word for word in words if word.startswith("--config")]
            settings = cli.load_config(["train.py", *config]).to_dict()
            for name in ("batch_size", "eval_batch_size"):
                assert settings[name] % known[file] == 0, (file, name)
            del known[file]
    assert not known


def test_a_flag_that_there_is_not_would_be_noticed(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit):
        cli.parse_flags(["train.py", "--config=configs/digits.py", "--coordinater=a"])
    assert "is not a flag" in capsys.readouterr().err


def test_the_recipes_are_well_formed():
    sky = yaml.safe_load((ROOT / "launch" / "sky.yaml").read_text())
    assert sky["resources"]["job_recovery"]["recover_on_exit_codes"] == [cli.TRY_AGAIN]
    for script in ("run.sh", "slurm.sbatch"):
        subprocess.run(["bash", "-n", ROOT / "launch" / script], check=True)


def _script(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path):
    """Variables of a shell whose `python` is this one."""
    programs = tmp_path / "bin"
    programs.mkdir()
    _script(programs / "python", f'exec {sys.executable} "$@"')
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "RUN": str(tmp_path / "run"),
    }


def test_a_stopped_run_is_to_be_tried_again(environment):
    command = ["launch/run.sh", "--config=configs/characters.py", *SMALL]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, env=environment, **pipes) as run:
        for line in run.stdout:
            if line.startswith("step"):
                run.send_signal(signal.SIGTERM)  # to the shell alone
                break
        assert run.wait(timeout=60) == cli.TRY_AGAIN, run.stderr.read()
    again = subprocess.run(command, cwd=ROOT, env=environment, **pipes, timeout=60)
    assert again.returncode == 0, again.stderr
    assert "resuming" in again.stdout


def test_slurm_queues_a_stopped_run_again(environment, tmp_path):
    variables = "SLURM_STEP_NODELIST=here SLURM_NTASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0"
    programs = {
        # The second time: what is stopped in time says so, and exits with 0.
        "srun": f'[ -e "$RUN" ] && exit 0; exec env {variables} "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/asked',
    }
    for name, text in programs.items():
        _script(tmp_path / "bin" / name, text)
    environment |= {"CONFIG": "configs/characters.py", "SLURM_JOB_ID": "7"}
    command = ["bash", "launch/slurm.sbatch", *SMALL]
    kept = {"cwd": ROOT, "env": environment, "timeout": 60, "check": False}
    ended = subprocess.run(command, **kept, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert "accepted steps" in ended.stdout
    assert not (tmp_path / "asked").exists()

    (tmp_path / "run" / "metrics.jsonl").write_text("")
    assert subprocess.run(command, **kept).returncode == cli.TRY_AGAIN
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
