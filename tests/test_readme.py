"""The README: one page whose code runs, whose tables are those of the raw records."""

import contextlib
import io
import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest
import readme
from paths import ROOT
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")
NUMBER = r"-?[\d,]*\.?\d+"


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def words(line):
    """A line with every number in it replaced: those differ between machines."""
    return re.sub(r"[ ]+", " ", re.sub(NUMBER, "#", line)).strip()


def test_it_is_one_page():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert lines.index("```bash") < 20
    assert lines.index("```python") < 60
    tables = re.findall(r"(?:^\|.*\n)+", README, re.MULTILINE)
    assert tables
    for table in tables:
        assert len(table.splitlines()) <= 2 + 6


def test_own_loop_runs_as_it_stands_and_prints_what_it_says():
    (code,) = blocks("python")
    names, printed = {}, io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        jax.numpy_dtype_promotion("standard"),  # what a user has
        jax.numpy_rank_promotion("allow"),
    ):
        exec(code, names)
    shown = next(text for text in blocks("text") if "with the race" in text)
    assert words(printed.getvalue()) == words(shown)
    found, told = (
        np.array(re.findall(NUMBER, text)[:2], float)
        for text in (printed.getvalue(), shown)
    )
    assert found == pytest.approx(told, rel=0.4)
    assert found[0] < found[1] / 10
    assert names["result"].metrics[-1]["total_steps"] == 20 * 40
    assert float(names["result"].schedule["learning_rate"](0)) > 1e-3


@pytest.mark.slow
def test_the_command_prints_what_it_says(tmp_path):
    """Every line of the README's output is one of the run's, but for its numbers."""
    shown = next(text for text in blocks("text") if text.startswith("$ "))
    command, *lines = shown.splitlines()
    assert blocks("bash")[0].count(command.removeprefix("$ "))
    flags = command.removeprefix("$ python train.py ").split()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = subprocess.run(
        [sys.executable, ROOT / "train.py", *flags],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    printed = {words(line) for line in done.stdout.splitlines()}
    for line in lines:
        assert line == "..." or words(line) in printed, line


def test_numbers_in_the_text_are_those_of_the_records():
    example = json.loads((readme.RESULTS / "race_example.json").read_text())["results"]
    losses = f"{example['loss']:.2f}", f"{example['alone'][-1][1]:.2f}"
    *_, mean, worst, visible, _, _ = readme.TABLES["suite_seeds"]().splitlines()
    cosine, right, tenth, ten, nothing = mean.split("|")[4:-1]
    hidden, *sweep = worst.split("|")[4:-1]
    worst_cosine = visible.split("|")[4]
    hidden = f"{float(hidden.strip(' +%')):.0f}%"
    # But for the bit to remember, which one run does not learn; the texts say so.
    bases = readme.suite_tables.race(wanted=readme.suite_tables.WARMED).items()
    owns = [
        x["best:warmed_cosine"]["own"] for (name, _), x in bases if name != "plateau"
    ]
    warmed, runs = f"{100 * (max(owns) - 1):.1f}%", len(bases)
    assert f"one run of {runs} learnt nothing" in (ROOT / "README.md").read_text()
    worst_of_all = f"{max(float(x.strip(' +%')) for x in sweep):.0f}%"
    suite = readme.suite_tables
    ratios = suite._column(suite.race(suite.FEW), ("best", "averaged"))
    averaged = suite.percent(suite.mean(ratios)).strip("+")
    averaged = f"averaged weights the constant ends {averaged} ahead"
    sweeps = [right, tenth, ten, nothing, worst_of_all]
    size = {name: run.metrics[-1] for name, (run,) in readme.paper_table.runs().items()}
    best = size["cosine"]["test_accuracy"]
    behind = [
        f"{best - size[name]['test_accuracy']:.1f}"
        for name in ("race_0.1", "race_0.01")
    ]
    quoted = {
        "README.md": [
            *losses,
            worst_cosine,
            warmed,
            hidden,
            averaged,
            " and ".join(behind),
        ],
        "docs/index.md": [*losses, right, nothing],
        "docs/results.md": [worst_cosine, worst_of_all],
        "docs/limits.md": [cosine, worst_cosine, warmed, hidden, *sweeps, *behind],
        "docs/paper.md": behind,
    }
    for document, numbers in quoted.items():
        text = " ".join((ROOT / document).read_text(encoding="utf-8").split())
        for number in numbers:
            assert number.strip(" +") in text, (document, number)


def test_tables_are_those_of_the_raw_records(monkeypatch):
    for document in readme.DOCUMENTS:
        text = (ROOT / document).read_text(encoding="utf-8")
        assert readme.fill(document) == text
    monkeypatch.setattr(readme.figure_files, "render", lambda *_: b"")  # tables alone
    tables = {x: text for x, text in readme.figures().items() if x.endswith(".md")}
    assert len(tables) == 9
    for name, text in tables.items():
        assert (ROOT / name).read_bytes() == text, name


def test_every_table_stands_once():
    placed = [name for names in readme.DOCUMENTS.values() for name in names]
    assert sorted(placed) == sorted(readme.TABLES)


def test_the_picture_shows_every_rate_of_the_race():
    record = json.loads((readme.RESULTS / "race_example.json").read_text())
    first = record["results"]["decisions"][0]["trials"]
    rates, losses = readme.race_picture.chart(record["results"]).panels
    lines = [each for each in rates.drawn if each.shape == "line"]
    assert len(lines) == len(first) + 1  # the arms, and the run
    ends = [each.points[-1] for each in losses.drawn if each.shape == "line"]
    assert min(y for _, y in ends) == pytest.approx(record["results"]["loss"], abs=0.05)


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
