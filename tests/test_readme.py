"""The README: its code runs, its tables are those of the raw records."""

import re
import sys

import numpy as np
from paths import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_own_loop_runs_as_it_stands():
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)

    def train_step(w, hparams, batch):
        return w - hparams["learning_rate"] * (w - batch)

    names = {
        "train_step": train_step,
        "batch": lambda step: np.float32(0.1 * np.sin(step)),
        "validation_loss": lambda w: abs(float(w)) + 0.1,
        "initial_network": lambda: np.float32(10),
    }
    exec(code, names)
    assert names["result"].metrics[-1]["total_steps"] == 20 * 100
    assert abs(names["network"]) < 0.5 < 10 * (1 - 1e-3) ** 2000
    assert float(names["schedules"]["learning_rate"](0)) > 0.01


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
        assert link.startswith("https://") or (ROOT / link).exists(), link
