"""The page in a real browser: what can be read in it is what the rows say."""

import itertools
import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from paths import ROOT
from playwright import sync_api

from hyperdyn_jax import report

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium on PATH"),
]
PHONE, DESKTOP = {"width": 360, "height": 740}, {"width": 1280, "height": 900}
NAMES = ("learning_rate", "momentum")
FLAGS = {
    "strategy": "hyperdyn",
    "epochs": 4,
    "batch_size": 256,
    "model.width": 2,
    "hyperdyn.initial_points": 2,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The directory of a run, its page in it."""
    folder = tmp_path_factory.mktemp("pages") / "run"
    words = [f"--config.{name}={value}" for name, value in FLAGS.items()]
    words = ["--config=configs/digits.py", *words, f"--workdir={folder}"]
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    command = [sys.executable, "train.py", *words]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return folder


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        options = {"executable_path": CHROMIUM, "args": ["--no-sandbox"]}
        chromium = playwright.chromium.launch(**options)
        yield chromium
        chromium.close()


class Opened:
    """A page that is open, and what it asked for and complained of."""

    def __init__(self, browser, file, viewport=DESKTOP, theme="light", script=True):
        self.context = browser.new_context(
            viewport=viewport, color_scheme=theme, java_script_enabled=script
        )
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda line: self.complaints.append(line.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(file.as_uri())

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def texts(self, selector):
        found = self.page.locator(selector).all_text_contents()
        return [text.replace("\u00a0", " ").strip() for text in found]


def rows_of(run, log):
    return [json.loads(x) for x in (run / f"{log}.jsonl").read_text().splitlines()]


def number(text):
    return float(text.replace("−", "-").replace(",", ""))


def test_it_asks_for_nothing_and_complains_of_nothing(run, browser):
    file = run / "report.html"
    with Opened(browser, file) as opened:
        for details in opened.page.locator("summary").all():
            details.click()
        opened.page.wait_for_load_state("networkidle")
        elsewhere = [url for url in opened.asked if not url.startswith("data:")]
        assert elsewhere == [file.as_uri()]
        assert opened.complaints == []


def test_its_policy_forbids_what_is_not_in_it(run, browser):
    with Opened(browser, run / "report.html") as opened:
        fetched = "fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')"
        assert opened.page.evaluate(fetched) == "refused"
        assert any("Content Security Policy" in line for line in opened.complaints)


def test_accuracies_and_hyperparameters_are_those_of_the_rows(run, browser):
    metrics = rows_of(run, "metrics")
    with Opened(browser, run / "report.html") as opened:
        opened.page.locator("summary").first.click()
        head = opened.texts("[data-table=metrics] thead th")
        lines = opened.page.locator("[data-table=metrics] tbody tr").all()
        assert len(lines) == len(metrics) == 4
        for line, row in zip(lines, metrics, strict=True):
            cells = line.locator("th, td").all_text_contents()
            shown = {k: number(v) for k, v in zip(head, cells, strict=True)}
            assert shown["Epoch"] == row["epoch"]
            assert shown["Accepted steps"] == row["step"]
            assert shown["Total steps"] == row["total_steps"]
            accuracy = shown["Validation accuracy (%)"]
            assert accuracy == pytest.approx(row["validation_accuracy"], abs=0.005)
            for name, value in row["hyperparams"].items():
                assert shown[name] == pytest.approx(value, rel=1e-3)
        points = opened.page.locator("#accuracy-title ~ figure svg").all()[:2]
        for chart, count in zip(points, ("step", "total_steps"), strict=True):
            marks = chart.locator("circle[data-x]")
            drawn = marks.evaluate_all("all => all.map((c) => ({...c.dataset}))")
            assert [float(mark["x"]) for mark in drawn] == [m[count] for m in metrics]
            accuracies = [m["validation_accuracy"] for m in metrics]
            assert [float(m["y"]) for m in drawn] == pytest.approx(accuracies)


def test_the_path_is_drawn_where_the_rows_have_it(run, browser):
    metrics = rows_of(run, "metrics")
    with Opened(browser, run / "report.html") as opened:
        charts = opened.page.locator("#hyperparameters-title ~ figure .panels svg")
        for chart, name in zip(charts.all(), NAMES, strict=True):
            marks = chart.locator("circle.dot")
            drawn = marks.evaluate_all(
                "all => all.map((c) => [c.dataset.x, c.dataset.y, c.cx.baseVal.value])"
            )
            values = [row["hyperparams"][name] for row in metrics]
            assert [float(y) for _, y, _ in drawn] == pytest.approx(values)
            assert [int(x) for x, _, _ in drawn] == [row["epoch"] for row in metrics]
            places = [place for *_, place in drawn]
            gaps = [b - a for a, b in itertools.pairwise(places)]
            assert gaps == pytest.approx([gaps[0]] * len(gaps), abs=0.3)


def test_decisions_are_those_of_the_rows(run, browser):
    decisions = rows_of(run, "decisions")
    with Opened(browser, run / "report.html") as opened:
        bodies = opened.page.locator("tbody.decision").all()
        assert len(bodies) == len(decisions)
        for body, row in zip(bodies, decisions, strict=True):
            lines = body.locator("tr").all()
            assert len(lines) == len(row["trials"])
            for i, line in enumerate(lines):
                tried, predicted, realised = line.locator("td").all_text_contents()[-3:]
                assert tried.startswith("✓") == (i == row["branch"])
                gain = row["scores"][i] - row["score_before"]
                assert number(realised) == pytest.approx(gain, abs=0.0051)
                rate = float(re.search(r"learning_rate (\S+),", tried)[1])
                wanted = row["trials"][i]["learning_rate"]
                assert rate == pytest.approx(wanted, rel=1e-3)
                if row["posterior_mean"][i] is None:
                    assert predicted == "–"
                else:
                    mean, stddev = predicted.replace("\u00a0", " ").split(" ± ")
                    known = row["posterior_mean"][i], row["posterior_stddev"][i]
                    told = (number(mean), number(stddev))
                    assert told == pytest.approx(known, abs=0.0051)


def test_the_slider_moves_with_the_keyboard(run, browser):
    decisions = rows_of(run, "decisions")
    modelled = [row for row in decisions if row["gp"]]
    with Opened(browser, run / "report.html") as opened:
        page = opened.page
        dial = page.get_by_label("Before the decision of")
        keys = ["End", *["ArrowLeft"] * (len(modelled) - 1)]
        for row, key in zip(modelled[::-1], keys, strict=True):
            dial.press(key)
            title = f"epoch {row['epoch']}"
            assert page.locator(".dial output").text_content() == title
            assert dial.get_attribute("aria-valuetext") == title
            told = page.locator(".told").text_content()
            assert told.startswith("Kept" if row["kept"] else "Switched")
            charts = page.locator(".dialled svg[data-step]")
            assert charts.count() == 2
            gains = charts.first.locator("[data-gain]").evaluate_all(
                "all => all.map((c) => Number(c.dataset.gain))"
            )
            wanted = [score - row["score_before"] for score in row["scores"]]
            assert gains == pytest.approx(wanted, rel=1e-3, abs=1e-3)
            mean = json.loads(
                charts.first.locator("[data-mean]").get_attribute("data-mean")
            )
            expected = row["posterior_mean"]
            assert min(mean) <= max(expected) + row["posterior_stddev"][0]
            assert max(mean) >= min(expected) - row["posterior_stddev"][0]


def test_without_a_script_the_beliefs_are_there(run, browser):
    with Opened(browser, run / "report.html", script=False) as opened:
        assert not opened.page.locator(".dialled").is_visible()
        assert opened.page.locator(".glance svg").count() == 6
        assert opened.page.locator(".glance").is_visible()


@pytest.mark.parametrize("viewport", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_nothing_is_wider_than_the_window(run, browser, viewport):
    with Opened(browser, run / "report.html", viewport) as opened:
        for details in opened.page.locator("summary").all():
            details.click()
        width = opened.page.evaluate("document.documentElement.scrollWidth")
        assert width <= viewport["width"]
        sizes = opened.page.locator(".panels svg text").evaluate_all(
            "all => all.map((t) => t.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 12  # the box of a line of letters, in pixels


def luminance(color):
    """Of `rgb(r, g, b)`: WCAG 2.2, relative luminance."""
    channels = [int(x) / 255 for x in re.findall(r"\d+", color)[:3]]
    linear = [
        x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels
    ]
    return sum(w * x for w, x in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one, other):
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_it_is_light_and_dark_and_readable_in_both(run, browser):
    papers = []
    for theme in ("light", "dark"):
        with Opened(browser, run / "report.html", theme=theme) as opened:

            def color(selector, what, page=opened.page):
                read = f"(e) => getComputedStyle(e).{what}"
                return page.locator(selector).first.evaluate(read)

            paper = color("body", "backgroundColor")
            papers.append(paper)
            inks = {
                name: color(name, "color")
                for name in ("body", ".note", "figcaption", ".eyebrow", "summary")
            }
            inks["svg text"] = color("svg text", "fill")
            for name, ink in inks.items():
                assert contrast(ink, paper) >= 4.5, (theme, name)
            for look in range(6):  # a line has to be seen: WCAG 2.2, 1.4.11
                line = color("body", f"getPropertyValue('--c{look}')")
                channels = [int(line[i : i + 2], 16) for i in (1, 3, 5)]
                assert contrast(f"rgb{tuple(channels)}", paper) >= 3, (theme, look)
    assert luminance(papers[0]) > 0.5 > luminance(papers[1])


def test_it_can_be_used_without_a_mouse_or_eyes(run, browser):
    with Opened(browser, run / "report.html") as opened:
        page = opened.page
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.keyboard.press("Enter")
        assert page.url.endswith("#main")
        labelled = "all => all.map((e) => e.labels.length)"
        controls = page.locator("input, select, textarea, button")
        assert controls.count() == 1
        assert all(count > 0 for count in controls.evaluate_all(labelled))
        page.get_by_label("Before the decision of").focus()
        outline = "(e) => getComputedStyle(e).outlineStyle"
        page.keyboard.press("ArrowLeft")
        assert page.locator(".dial input").evaluate(outline) == "solid"
        pictures = page.locator("svg:not([aria-hidden])")
        named = pictures.evaluate_all("all => all.map((e) => [e.role, e.ariaLabel])")
        assert all(role == "img" and len(name) > 20 for role, name in named)
        heads = (
            "all => all.map((t) => t.querySelectorAll('thead th[scope=col]').length)"
        )
        assert min(page.locator("table").evaluate_all(heads)) >= 2
        levels = page.locator("h1, h2, h3").evaluate_all(
            "all => all.map((h) => h.tagName)"
        )
        assert levels[0] == "H1"
        assert levels.count("H1") == 1


def test_several_runs_share_a_page(run, browser, tmp_path):
    page = report.write_report([run, run], tmp_path / "both")
    with Opened(browser, page, PHONE, "dark") as opened:
        assert opened.complaints == []
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 360
        assert opened.page.locator(".dialled").count() == 2
        identities = "all => all.map((e) => e.id)"
        names = opened.page.locator("[id]").evaluate_all(identities)
        assert len(names) == len(set(names))
