"""Command lines without a config: the same options, in the same words, everywhere."""

import argparse
import difflib
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hyperdyn_jax.run import jsonl
from hyperdyn_jax.system import files
from hyperdyn_jax.system.errors import in_words

DONE, BAD_INPUT, INTERRUPTED = 0, 2, 130  # exit codes


def path(text: str) -> Path:
    """The type of a path: `~` is the home of a user."""
    try:
        if not text:
            raise ValueError("a path must not be empty")
        return files.expand(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


WORDS: dict[str, dict[str, Any]] = {
    "output": {"type": path, "metavar": "DIR", "help": "folder to write to"},
    "data_dir": {
        "type": path,
        "metavar": "DIR",
        "help": "TFDS folder of the data sets",
    },
    "workdir": {"type": path, "metavar": "DIR", "help": "run directory"},
    "seeds": {"metavar": "0,1,2", "help": "seeds of the runs"},
    "runs": {"nargs": "+", "type": path, "metavar": "RUN", "help": "run directory"},
}


class Parser(argparse.ArgumentParser):
    """Of `python -m hyperdyn_jax.<name>`.

    Bad input is a line on standard error and exit code 2; --help fits a screen.

    Args:
      name: the name of the module.
      about: its docstring.
    """

    def __init__(self, name: str, about: str | None):
        super().__init__(
            f"python -m hyperdyn_jax.{name}",
            description=about and about.strip(),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def option(self, name: str, more: str = "", **changes: Any) -> None:
        """Adds an argument of `WORDS`; `more` is said after what they say.

        One with `nargs` has no dashes.
        """
        words = {**WORDS[name], **changes}
        words["help"] += f"; {more}" if more else ""
        self.add_argument(name if "nargs" in words else f"--{name}", **words)

    def error(self, message: str) -> NoReturn:
        """One line, as every program here reports bad input."""
        _, _, words = message.partition("unrecognized arguments: ")
        for flag in re.findall(r"--[\w-]+", words)[:1]:
            close = difflib.get_close_matches(flag, self._option_string_actions, 1)
            message += "".join(f"; did you mean {x}?" for x in close)
        print(f"error: {message} (--help shows how it is used)", file=sys.stderr)
        raise SystemExit(BAD_INPUT)


def exit_code(command: Callable[[], Any]) -> int:
    """Runs a command; what a user can cause is a line for each problem, and 2."""
    try:
        command()
    except (ValueError, OSError) as error:
        for line in in_words(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return BAD_INPUT
    except KeyboardInterrupt:
        return INTERRUPTED
    return DONE


def note(text: str) -> None:
    """What a command says beside its result."""
    print(f"note: {text}", file=sys.stderr)


def check_output(folder: Path) -> None:
    """Raises ValueError if a folder of results cannot be written."""
    if why := files.unwritable(folder):
        raise ValueError(f"--output={folder} cannot be written: {why}")


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Writes files, each of them whole or not at all, in order.

    Args:
      folder: made if it is not there.
      contents: the files' contents, by their names in it.

    Raises:
      ValueError: one cannot be written; those before it are there.
    """
    for name, content in contents.items():
        file = folder / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            jsonl.replace_bytes(file, content)
        except OSError as error:
            raise ValueError(f"{file} cannot be written: {error.strerror}") from None


def encoded(text: str) -> bytes:
    """UTF-8, also of the name of a file that is not."""
    return text.encode("utf-8", "backslashreplace")
