"""Crashes leave a word, and output that nobody reads or can encode ends nothing."""

import os
import signal
import subprocess
import sys

import pytest
from paths import ROOT

SOURCE = ROOT / "hyperdyn_jax" / "system" / "process.py"
# The module by itself: the package brings JAX, which takes seconds.
BEGIN = f"exec(open({str(SOURCE)!r}).read()); begin(); begin(); import time\n"


def shell(line, code, **environment):
    """What a shell does with a program that begins as every command here does."""
    return subprocess.run(
        ["bash", "-c", line, "bash", sys.executable, "-c", BEGIN + code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


TALK = """
for i in range(200):
    print("line", i, flush=True)
    print("note", i, file=sys.stderr)
    time.sleep(0.001)
open("end", "w").write("came to its end")
"""


@pytest.mark.parametrize(
    "redirection",
    ["| head -1", "2>&1 | head -1", ">&-", "2>&-", ">&- 2>&- <&-", "2> >(true) | true"],
)
def test_output_that_nobody_reads_ends_nothing(tmp_path, monkeypatch, redirection):
    monkeypatch.chdir(tmp_path)
    done = shell(f'"$1" "$2" "$3" {redirection}; exit ${{PIPESTATUS[0]}}', TALK)
    assert done.returncode == 0
    assert "Error" not in done.stderr
    assert (tmp_path / "end").read_text() == "came to its end"


def test_the_output_of_the_end_is_lost_quietly_too():
    """What is still in Python's buffer when the program ends."""
    done = shell(
        '"$1" "$2" "$3" | true; exit ${PIPESTATUS[0]}', "time.sleep(.2); print(1)"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_closed_stream_does_not_write_into_a_file_that_is_opened_later(tmp_path):
    code = f"file = open({str(tmp_path / 'file')!r}, 'w'); os.write(2, b'a crash')"
    done = shell('"$1" "$2" "$3" 2>&-', code)
    assert done.returncode == 0
    assert (tmp_path / "file").read_text() == ""


def test_a_full_disk_is_still_told():
    done = shell('"$1" "$2" "$3" > /dev/full', "print('a table', flush=True)")
    assert done.returncode
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8:strict"])
def test_characters_that_the_encoding_lacks_are_written_as_escapes(encoding):
    code = "for f in sys.stdout, sys.stderr: print('1 \\xb1 \\u2013 \\udcff', file=f)"
    done = shell('"$1" "$2" "$3" 2>&1 | cat -v', code, PYTHONIOENCODING=encoding)
    assert done.returncode == 0
    assert done.stdout.startswith("1 ")
    assert "Error" not in done.stdout
    assert len(done.stdout.splitlines()) == 2


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGILL])
def test_a_crash_prints_where_it_happened(number):
    done = shell('exec "$1" "$2" "$3"', f"os.kill(os.getpid(), {int(number)})")
    assert done.returncode == -number
    assert done.stderr.startswith("Fatal Python error: ")
    assert "most recent call first" in done.stderr


def test_streams_that_something_else_has_replaced_are_left_alone():
    code = (
        "mine = sys.stdout = io.StringIO(); begin(); sys.exit(sys.stdout is not mine)"
    )
    assert shell('"$1" "$2" "$3"', code).returncode == 0
