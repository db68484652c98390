"""The README: its code runs, its tables are those of the raw records."""

import io
import re

import numpy as np
import pytest
import readme
from paths import ROOT
from PIL import Image

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
    for document in readme.DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert readme.fill(document) == text
    monkeypatch.setattr(readme.figure_files, "render", lambda *_: b"")  # tables alone
    tables = {x: text for x, text in readme.figures().items() if x.endswith(".md")}
    assert len(tables) == 9
    for name, text in tables.items():
        assert (ROOT / name).read_bytes() == text, name


def test_a_smaller_picture_has_the_same_pixels():
    picture = Image.new("RGBA", (90, 60), (250, 250, 250, 255))
    picture.putpixel((3, 4), (1, 2, 3, 255))
    content = io.BytesIO()
    picture.save(content, "PNG", compress_level=0, dpi=(150, 150))
    small = readme.smaller(content.getvalue())
    assert len(small) < len(content.getvalue()) / 10
    again = Image.open(io.BytesIO(small))
    assert again.convert("RGBA").tobytes() == picture.tobytes()
    assert again.info["dpi"] == pytest.approx((150, 150), abs=0.1)


def test_links_lead_to_files():
    links = re.findall(r"\]\(([^)]+)\)", README)
    assert len(links) > 8
    for link in links:
        assert link.startswith("https://") or (ROOT / link).exists(), link
