"""Where the repository lies: tests are in folders, and so would each count its own."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests"
