"""With libtpu (the extra `tpu`): programs compiled for a slice that is not here."""

import json
import os
import re
import subprocess
import sys

import pytest
from paths import ROOT

STEP = r"training step{}: [\d.]+ MB of a chip, .*? 15 all-reduces, which send (\d+) kB"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["v5e:2x4", "v4:2x2x2"])
def test_the_programs_of_a_run_compile_for_a_slice(tmp_path, name):
    """In a process of its own, as libtpu stays in the one that loaded it."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "XDG_CACHE_HOME": str(tmp_path)}
    words = ["train.py", "--config=configs/digits.py", "--dry_run"]
    words += [f"--topology={name}", "--config.strategy=hyperdyn"]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    told = " ".join(done.stdout.split())
    # ResNet-8: seven layers of BatchNorm, there and back, and the gradients, which a
    # group of half of the chips sends less of.
    sent = [int(re.search(STEP.format(x), told)[1]) for x in ("", ", 2 side by side")]
    assert sent == [532, 456]
    assert "16 training steps: " in told
    assert "memory fits: " in told
    kept = [json.loads(x.read_text()) for x in tmp_path.rglob("slices/*.json")]
    assert not any(program["problem"] for program in kept)
