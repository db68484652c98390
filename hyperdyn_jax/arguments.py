"""Command lines without a config: the same options, in the same words, everywhere."""

import argparse
import sys
from pathlib import Path
from typing import Any, NoReturn

BAD_INPUT = 2  # exit code

WORDS: dict[str, dict[str, Any]] = {
    "output": {"type": Path, "metavar": "DIR", "help": "folder to write to"},
    "data_dir": {
        "type": Path,
        "metavar": "DIR",
        "help": "TFDS folder of the data sets",
    },
    "workdir": {"type": Path, "metavar": "DIR", "help": "run directory"},
    "seeds": {"metavar": "0,1,2", "help": "seeds of the runs"},
    "runs": {"nargs": "+", "type": Path, "metavar": "RUN", "help": "run directory"},
}


class Parser(argparse.ArgumentParser):
    """Of `python -m hyperdyn_jax.<name>`.

    Bad input is a line on standard error and exit code 2; --help fits a screen.

    Args:
      name: of the module.
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
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(BAD_INPUT)
