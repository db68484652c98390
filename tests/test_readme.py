"""The README: its code runs, its tables are those of the raw records."""

import re
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_own_loop_runs_as_it_stands():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    best = []

    def train(network, setting):
        rate = float(setting["learning_rate"])
        return network + 2 - abs(np.log10(rate) + 1)  # best at 0.1

    def evaluate(network):
        best.append(network)
        return network

    names = {"train": train, "evaluate": evaluate, "initial_network": lambda: 10.0}
    exec(code, names)
    assert names["decision"].epoch == 9
    assert names["network"] > 15
    assert len(best) == 1 + 5 + 9 * 2


def test_tables_are_those_of_the_raw_records(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import readme

    for document in readme.DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert readme.fill(document) == text
    del sys.modules["readme"]


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 8
    for link in links:
        assert link.startswith("https://") or (ROOT / link).is_file(), link
