"""The report's numbers, checked against the rows they come from."""

import base64
import hashlib
import html
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from written_runs import (
    DECISIONS,
    METRICS,
    SPACE,
    A,
    B,
    C,
    Page,
    decision,
    lines,
    make_run,
    metric,
    setting,
)

from hyperdyn_jax import compare, report
from hyperdyn_jax.report import charts, figures, numbers, parts

FIGURES = {"accuracy.png", "hyperparameters.png", "gains.png", "cost.png"}


def manual_run(path, epochs, **config):
    metrics = [
        metric(e, 10 * (e + 1), 10 * (e + 1), 50.0 + e, A) for e in range(epochs)
    ]
    decisions = [
        decision(e, [A], [50.0 + e], 49.0 + e, 0, kept=True, extra_steps=0)
        for e in range(epochs)
    ]
    return make_run(path, metrics, decisions, strategy="manual", **config)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    return Page(report.write_report([make_run(tmp_path_factory.mktemp("a") / "run")]))


def test_summary_holds_the_numbers_of_the_last_row(page):
    assert page.facts == {
        "Test (%)": "46.50",
        "Validation (%)": "47.75",
        "Accepted steps": "40",
        "Total steps": "90",
        "Overhead": "+125.0%",
        "Training (h:mm:ss)": "0:02:02",  # 4 x 30.5 s
    }
    lead = "<b>40</b> accepted steps, <b>90</b> total steps with every trial"
    assert f"<b>46.50%</b> test accuracy after {lead} (+125.0% overhead)" in page.text


def test_every_accepted_epoch_is_in_a_table(page):
    rows = page.table("metrics")
    assert [row["Accepted steps"] for row in rows] == ["10", "20", "30", "40"]
    assert [row["Total steps"] for row in rows] == ["30", "50", "70", "90"]
    accuracies = [row["Validation accuracy (%)"] for row in rows]
    assert accuracies == ["40.00", "45.00", "47.25", "47.75"]
    assert [row["learning_rate"] for row in rows] == ["0.1", "0.1", "0.02", "0.02"]
    assert [row["momentum"] for row in rows] == ["0.9", "0.9", "0.99", "0.99"]


def test_every_decision_is_in_a_table(page):
    start, kept, switched, forced = page.decisions()
    assert start == (
        "0",
        "Random start: the best of 3 random settings",
        [
            ("✓ random: learning_rate 0.1, momentum 0.9", "–", "+30.00"),
            ("random: learning_rate 0.5, momentum 0.5", "–", "+20.00"),
            ("random: learning_rate 0.9, momentum 0", "–", "diverged"),
        ],
    )
    assert kept[1].startswith("Kept: ")
    incumbent, challenger = kept[2]
    assert incumbent[0] == "✓ incumbent: learning_rate 0.1, momentum 0.9"
    assert incumbent[1:] == ("+6.00 ± 1.00", "+5.00")
    assert challenger[1:] == ("+12.00 ± 2.00", "+1.00")
    assert switched[1].startswith("Switched: ")
    incumbent, challenger = switched[2]
    assert (incumbent[2], challenger[2]) == ("−1.00", "+2.25")
    assert challenger[0].startswith("✓ challenger: ")
    why = "Kept: the branch that the test chose diverged"
    assert forced[1] == why
    assert forced[2][1][2] == "diverged"


def test_had_we_kept_compares_what_is_known(page):
    # Kept at epoch 1: 41 - 45. Switched at 2: 47.25 - 44. At 3 one branch diverged.
    kept, switched = page.table("kept")
    assert kept["Challenger − incumbent"] == "−4.00"
    assert (kept["Challenger ahead"], kept["Incumbent ahead"]) == ("0", "1")
    assert switched["Challenger − incumbent"] == "+3.25"
    assert (switched["Decisions"], switched["Challenger ahead"]) == ("1", "1")
    assert "Of 4 decisions, 2 have both branches trained and scored" in page.text
    assert "scored +3.25 percentage points in sum" in page.text
    assert "would have scored 0.00 percentage points" in page.text


def test_an_interval_is_students():
    values = [1.0, 2.0, 4.0, 3.5]
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    mean, half = numbers.interval(values)
    assert (mean - half, mean + half) == (pytest.approx(low), pytest.approx(high))
    assert math.isnan(numbers.interval([1.0])[1])


def test_what_went_wrong_is_told(page, tmp_path):
    assert "Epoch 0: diverged with learning_rate 0.9, momentum 0" in page.text
    rollback = {"attempt": 2, "learning_rate_limit": 0.01}
    rows = [decision(0, [A, B], [None, None], 10.0, -1, rollback=rollback)]
    rows += [decision(0, [A, C], [40.0, 30.0], 10.0, 0)]
    metrics = [METRICS[0] | {"skipped_records": 3}]
    text = Page(report.write_report([make_run(tmp_path / "x", metrics, rows)])).text
    told = "back to the state before, attempt 2; learning rate at most 0.01 from now on"
    assert told in text
    assert "3 records could not be read and were left out" in text


def test_a_run_without_trouble_has_no_such_section(tmp_path):
    page = Page(report.write_report([manual_run(tmp_path / "run", 3)]))
    assert "What went wrong" not in page.text


def test_predictive_interval_adds_the_noise_in_points(tmp_path):
    made = numbers.predictions(report.load_run(make_run(tmp_path / "run")))
    assert [p.challenger for p in made] == [False, True, False, True, False]
    assert [p.gain for p in made] == [5.0, 1.0, -1.0, 2.25, 0.5]
    assert made[0].stddev == pytest.approx(math.sqrt(1.0 + 2.5**2))
    assert made[1].stddev == pytest.approx(math.sqrt(4.0 + 2.5**2))
    assert made[2].stddev == pytest.approx(math.sqrt(0.0625 + 5.75**2))


def test_coverage_is_counted_with_1_645_standard_deviations(page):
    # |gain - mean|: 1, 11, 1.5, 0.75, 0; half widths 4.4, 5.3, 9.5, 9.5, 4.1.
    assert "90% intervals held 4 of 5 gains (80%)" in page.text
    every, incumbents, challengers = page.table("calibration")
    assert (every["Held"], every["Of"], every["Share"]) == ("4", "5", "80%")
    assert (incumbents["Held"], incumbents["Of"]) == ("3", "3")
    assert (challengers["Held"], challengers["Of"]) == ("1", "2")


def test_an_interval_without_recorded_noise_is_the_latent_one(tmp_path):
    rows = [DECISIONS[0], DECISIONS[1] | {"gp": None}]
    run = report.load_run(make_run(tmp_path / "run", decisions=rows))
    assert [p.stddev for p in numbers.predictions(run)] == [1.0, 2.0]


def test_page_is_self_contained(page):
    assert all(link.startswith("data:") or link == "#main" for link in page.links)
    assert not {"iframe", "object", "embed", "base", "img", "form"} & set(page.tags)
    assert page.tags.count("link") == page.tags.count("style") == 1
    assert not re.search(r"https?://(?!www.w3.org/2000/svg)|@import", page.text)


def test_the_policy_allows_what_is_in_the_page_and_nothing_else(page):
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.text)[1]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for tag in ("style", "script"):
        (content,) = re.findall(f"<{tag}>(.*?)</{tag}>", page.text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_figures_are_png_files_beside_the_page(tmp_path):
    run = make_run(tmp_path / "run")
    assert report.write_report([run]) == run / "report.html"
    images = list((run / "figures").iterdir())
    assert {image.name for image in images} == FIGURES
    assert all(i.read_bytes().startswith(b"\x89PNG\r\n\x1a\n") for i in images)


def test_same_run_gives_the_same_page(tmp_path):
    run = make_run(tmp_path / "run")
    once = report.write_report([run]).read_bytes()
    assert report.write_report([run]).read_bytes() == once


def test_accuracy_is_drawn_over_accepted_and_total_steps(tmp_path):
    run = report.load_run(make_run(tmp_path / "run"))
    left, right, *_ = figures.draw(charts.accuracy([run])).axes
    assert left.lines[0].get_xydata().tolist() == [
        [10, 40],
        [20, 45],
        [30, 47.25],
        [40, 47.75],
    ]
    assert right.lines[0].get_xdata().tolist() == [30, 50, 70, 90]


def test_paths_follow_the_search_space_and_show_challengers(tmp_path):
    run = report.load_run(make_run(tmp_path / "run"))
    rate, momentum = figures.draw(charts.hyperparameters([run])).axes
    assert (rate.get_yscale(), momentum.get_yscale()) == ("log", "function")
    path, dots, *marks = (line.get_xydata().tolist() for line in rate.lines)
    edges = [-0.5, 0.5, 0.5, 1.5, 1.5, 2.5, 2.5, 3.5]
    values = [0.1] * 4 + [0.02] * 4
    assert path == [list(point) for point in zip(edges, values, strict=True)]
    assert dots == [[0, 0.1], [1, 0.1], [2, 0.02], [3, 0.02]]
    rejected, diverged, accepted = marks
    assert accepted == [[0, 0.1], [2, 0.02]]
    assert rejected == [[0, 0.5], [1, 0.5]]
    assert diverged == [[0, 0.9], [3, 0.9]]
    assert [line.get_marker() for line in rate.lines[2:]] == ["o", "x", "^"]
    assert momentum.lines[1].get_ydata().tolist() == [0.9, 0.9, 0.99, 0.99]
    labels = [label.get_text() for label in momentum.get_yticklabels()]
    assert {"0", "0.9", "0.99"} <= set(labels)


def test_linear_axes_stay_linear_and_the_learning_rate_never_is(tmp_path):
    space = {axis: {"kind": "uniform", "low": 0, "high": 1} for axis in SPACE}
    run = report.load_run(make_run(tmp_path / "run", search_space=space))
    rate, momentum = charts.hyperparameters([run]).panels
    assert (rate.y_kind, momentum.y_kind) == ("log_uniform", "uniform")


def test_a_constant_is_not_magnified(tmp_path):
    run = report.load_run(manual_run(tmp_path / "run", 3))
    rate, momentum = charts.hyperparameters([run]).panels
    assert (rate.up[0] < 0.05, rate.up[1] > 0.2) == (True, True)
    assert (momentum.up[0] < 0.8, momentum.up[1] > 0.95) == (True, True)


def test_epochs_have_whole_labels(tmp_path):
    for epochs in (1, 2, 3, 30):
        run = report.load_run(manual_run(tmp_path / f"{epochs}", epochs))
        (axes,) = figures.draw(charts.cost([run])).axes
        ticks = axes.get_xticks()
        assert len(ticks)
        assert all(tick == round(tick) for tick in ticks)


@pytest.mark.parametrize("draw", charts.FIGURES)
def test_page_and_figure_say_the_same(tmp_path, draw):
    """Names of axes, their labels, and the legend."""
    chart = draw([report.load_run(make_run(tmp_path / "run"))])
    figure, page = figures.draw(chart), parts.figure(chart)
    for axes in figure.axes:
        assert html.escape(axes.get_xlabel()) in page
        assert html.escape(axes.get_ylabel()) in page
    legends = [text.get_text() for each in figure.legends for text in each.get_texts()]
    assert legends == [key.text for key in chart.keys]
    assert all(html.escape(text) in page for text in legends)
    assert len(figure.axes) == page.count('role="img"')


def test_colours_are_those_of_the_page(tmp_path):
    run = report.load_run(make_run(tmp_path / "run"))
    css = Path(report.__file__).with_name("page.css").read_text()
    line = figures.draw(charts.accuracy([run])).axes[0].lines[0]
    assert f"--c0: {line.get_color()};" in css
    lengths = {"-": 0, "--": 2, "-.": 4, ":": 2}  # of the dashes and gaps of a line
    for number, dashes in enumerate(figures.DASHES):
        found = re.search(rf"\.d{number} {{ stroke-dasharray: ([\d ]+)", css)
        assert len(found[1].split() if found else ()) == lengths[dashes]


def test_torn_last_line_is_left_out(tmp_path):
    run = make_run(tmp_path / "run")
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole[:-40])
    with (run / "decisions.jsonl").open("ab") as file:
        file.write('{"epoch": 4, "name": "é'.encode()[:-1])
    loaded = report.load_run(run)
    assert loaded.metrics == tuple(METRICS[:3])
    assert loaded.decisions == tuple(DECISIONS)


def test_torn_middle_line_is_an_error(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "metrics.jsonl").write_text('{"epoch": 0,\n' + lines(METRICS))
    with pytest.raises(ValueError, match=r"metrics\.jsonl, row 1: not valid JSON"):
        report.load_run(run)


def test_missing_fields_are_named(tmp_path):
    row = {k: v for k, v in METRICS[0].items() if k not in ("step", "seconds")}
    run = make_run(tmp_path / "run", [row])
    with pytest.raises(ValueError, match="row 1: missing step, seconds"):
        report.load_run(run)


def test_run_before_its_first_epoch_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"metrics\.jsonl: no accepted epoch"):
        report.load_run(make_run(tmp_path / "run", [], []))
    with pytest.raises(ValueError, match="no run directory given"):
        report.write_report([])


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "decisions.jsonl"])
def test_missing_file_is_one_line_and_exit_code_2(tmp_path, capsys, name):
    run = make_run(tmp_path / "run")
    (run / name).unlink()
    assert report.main([str(run)]) == 2
    out, err = capsys.readouterr()
    assert err.startswith(f"error: {run / name}: missing")
    assert (out, err.count("\n")) == ("", 1)
    assert not (run / "report.html").exists()


def test_command_prints_the_page_it_wrote(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    assert report.main([str(run), "--output", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "out" / "report.html")
    assert (tmp_path / "out" / "report.html").is_file()
    assert not (run / "report.html").exists()


def test_main_returns_2_for_a_directory_that_is_not_there(tmp_path, capsys):
    assert report.main([str(tmp_path / "none")]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    assert str(tmp_path / "none") in captured.err


def test_several_runs_go_to_one_page(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    runs = [make_run(tmp_path / "a"), manual_run(tmp_path / "b", 5, name="by hand")]
    page = report.write_report(runs)
    assert page == Path("report", "report.html")
    summary = Page(page).table("summary")
    assert [row["Run"] for row in summary] == ["demo", "by hand"]
    names = ("Accepted steps", "Total steps", "Overhead")
    assert [tuple(row[name] for name in names) for row in summary] == [
        ("40", "90", "+125.0%"),
        ("50", "50", "+0.0%"),
    ]
    assert "No epoch had a trial" in Page(page).text
    chart = charts.accuracy([report.load_run(run) for run in runs])
    assert [key.text for key in chart.keys] == ["demo", "by hand"]
    assert len({key.look for key in chart.keys}) == 2


def test_runs_of_one_name_are_told_apart(tmp_path):
    runs = [make_run(tmp_path / "x" / name) for name in ("seed0", "seed1")]
    summary = Page(report.write_report(runs, tmp_path / "out")).table("summary")
    assert [r["Run"] for r in summary] == ["demo (x/seed0)", "demo (x/seed1)"]


def test_unfinished_run_has_no_test_accuracy(tmp_path):
    run = make_run(tmp_path / "run", METRICS[:3], DECISIONS[:3])
    page = Page(report.write_report([run]))
    assert "Not finished." in page.text
    assert page.facts["Validation (%)"] == "47.25"
    assert page.facts["Test (%)"] == "–"


@pytest.mark.parametrize("epochs", [1, 3])
def test_manual_schedule_without_a_model(tmp_path, epochs):
    page = Page(report.write_report([manual_run(tmp_path / "run", epochs)]))
    assert "No epoch had a trial: the schedule was given beforehand." in page.text
    assert f"after <b>{10 * epochs}</b> steps; there were no trials." in page.text
    assert not {"decisions", "calibration", "kept"} & set(page.names)
    assert "What the model believed" not in page.text


def test_rolled_back_and_random_search_rows(tmp_path):
    rows = [
        decision(0, [A, B], [None, None], 10.0, -1),
        decision(1, [A, B], [12.0, 14.0], 10.0, 1),
    ]
    run = make_run(tmp_path / "run", METRICS[:2], rows)
    back, best = Page(report.write_report([run])).decisions()
    assert back[1] == "Rolled back: every branch diverged; back to the state before"
    assert best[1] == "Best of random: the best of 2 random settings"
    assert [trial[-1] for trial in back[2]] == ["diverged", "diverged"]


def test_nulls_zero_rates_and_a_bare_config_still_draw(tmp_path):
    nothing = dict.fromkeys(("train_loss", "validation_accuracy", "seconds"))
    run = make_run(tmp_path / "run", [metric(0, 0, 0, 1.0, setting(0.0)) | nothing], [])
    (run / "config.json").write_text("{}")
    page = Page(report.write_report([run]))
    assert "<h1>run</h1>" in page.text
    assert page.facts["Validation (%)"] == "–"
    assert page.facts["Overhead"] == "–"
    assert "No decision was recorded" in page.text


def test_names_are_text_and_never_markup(tmp_path):
    name = '_<script>alert("1")</script> $x^$'
    page = Page(report.write_report([make_run(tmp_path / "run", name=name)]))
    assert page.tags.count("script") == 1  # the page's own
    assert f"<h1>{html.escape(name[1:])}</h1>" in page.text


def test_embedded_data_cannot_end_their_element():
    text = parts.embed("x", {"name": "</script><script>alert(1)"})
    assert text.count("<") == 2
    content = re.fullmatch(r"<script[^>]*>(.*)</script>", text)[1]
    assert json.loads(content) == {"name": "</script><script>alert(1)"}


def test_what_a_run_adopted_after_probes_is_marked_as_taken(tmp_path):
    """After the first probes as after later ones."""
    probes = [decision(0, [A, B], [-2.0, -2.1], -2.3, -1)]
    probes += [decision(2, [A, C], [-2.0, -2.1], -2.3, -1)]
    run = report.load_run(make_run(tmp_path / "run", METRICS, probes))
    assert numbers.challengers(run, "accepted") == [(0, A), (2, C)]
    assert numbers.challengers(run, "rejected") == [(0, B), (2, A)]


def race_that_goes_back(folder):
    """To step 20, from which steps 30 and 40 were trained before."""
    metrics = [metric(e, 10 * e + 10, 12 * e + 30, 40.0 + e, A) for e in range(4)]
    path = [[10, A], [20, A]]
    metrics += [metric(4, 30, 86, 45.0, C, path=path), metric(5, 40, 96, 46.0, C)]
    metrics[-1] |= {"test_accuracy": 46.5}
    parents, end = (
        {"parents": [0, 1]},
        {"p_value": 0.0125, "following": C, "end": "lower"},
    )
    rows = [
        decision(0, [A, B], [-1.5, -1.6], -2.3, 0, **parents),
        decision(1, [A, B], [-1.3, -1.4], -1.5, 0, **parents, **end),
        *(decision(e, [A], [-1.2], -1.3, 0, extra_steps=0) for e in (2, 3)),
        decision(4, [A], [-1.9], -1.2, -1, extra_steps=30, rollback={"step": 20}),
        *(decision(e, [C], [-1.1], -1.2, 0, extra_steps=0) for e in (4, 5)),
    ]
    return make_run(folder, metrics, rows, strategy="race")


def test_what_was_taken_back_is_not_on_the_accepted_path(tmp_path):
    run = report.load_run(race_that_goes_back(tmp_path / "run"))
    left, right, *_ = figures.draw(charts.accuracy([run])).axes
    path = [[10, 40], [20, 41], [30, 45], [40, 46]]
    assert left.lines[0].get_xydata().tolist() == path
    assert len(right.lines[0].get_xydata()) == 6
    assert [x and x["learning_rate"] for x in run.settings] == [
        *(row["hyperparams"]["learning_rate"] for row in run.metrics[:2]),
        None, None,
        *(row["hyperparams"]["learning_rate"] for row in run.metrics[4:]),
    ]  # fmt: skip
    assert (
        "leaves out epochs that were taken back"
        in charts.hyperparameters([run]).caption
    )
    band = compare.band([run], "step")
    assert np.interp([20, 30], band.steps, band.mean) == pytest.approx(
        [41, 45], abs=0.1
    )


def test_the_page_of_a_race_tells_its_verdict(tmp_path):
    page = Page(report.write_report([race_that_goes_back(tmp_path / "run")]))
    first, last, back = page.decisions()
    assert first[1] == "Race: the best of 2 settings, trained from the same start"
    assert last[1] == (
        "Race: goes on with learning_rate 0.02, momentum 0.99, expected to end best "
        "(test against chance: p = 0.013); no rate beyond it was tried: widen the "
        "range at its lower end"
    )
    assert back[1].startswith("Went back: clearly behind its best score; ")
    assert {len(trial) for trial in first[2]} == {2}  # nothing was predicted
    cost = {row["Cost"]: row["Value"] for row in page.table("cost")}
    assert (cost["Steps of trials"], cost["Steps taken back"]) == ("26", "30")
    assert "with every trial and what was taken back" in page.text


def test_a_leader_that_was_left_is_not_on_the_path(tmp_path):
    """B led the first round, and the run went on with the base, A."""
    parents = {"parents": [0, 1, 2], "base": 1}
    metrics = [metric(0, 10, 30, 40.0, B, leading=True)]
    metrics += [metric(1, 20, 60, 41.0, A, path=[[10, A]])]
    metrics += [metric(2, 30, 70, 42.0, A, test_accuracy=41.5)]
    rows = [
        decision(0, [B, A, C], [-1.5, -1.6, -1.7], -2.3, 0, leading=True, **parents),
        decision(1, [A, B], [-1.3, -1.4], -1.5, 0, p_value=0.3, **parents),
        decision(2, [A], [-1.2], -1.3, 0),
    ]
    rows[1] |= {"kept": True, "base": 0}
    run = make_run(tmp_path / "run", metrics, rows, strategy="race")
    page, run = Page(report.write_report([run])), report.load_run(run)
    first, last = page.decisions()
    tried = [
        "trial: learning_rate 0.02",
        "✓ base: learning_rate 0.1",
        "trial: learning",
    ]
    assert all(map(str.startswith, (x for x, _ in first[2]), tried))
    stays = "the base stays: rates do not differ by more than noise (p = 0.3)"
    assert last[1] == f"Race: {stays}"
    epochs = [row["Epoch"] for row in page.table("metrics")]
    assert epochs == ["0 (left later)", "1", "2"]
    accepted, rates, _ = (
        figures.draw(charts.accuracy([run])).axes[0],
        *figures.draw(charts.hyperparameters([run])).axes,
    )
    assert accepted.lines[0].get_xydata().tolist() == [[20, 41], [30, 42]]
    assert set(rates.lines[0].get_ydata()) == {0.1}
    assert numbers.challengers(run, "accepted") == [(0, A), (1, A)]


def test_members_of_a_population_are_no_arms_of_a_race(tmp_path):
    model = {"parents": [0, 1, 0], "gp": {"epsilon": 0.1}}
    rows = [
        decision(0, [A, B, C], [40.0, 30.0, 20.0], 10.0, 0, **model),
        decision(1, [A, B, C], [45.0, 31.0, 41.0], 40.0, 0, **model, kept=True),
    ]
    run = make_run(tmp_path / "run", METRICS[:2], rows, strategy="pb2")
    start, later = Page(report.write_report([run])).decisions()
    assert start[1] == "Random start: the best of 3 random settings"
    assert later[1] == "Population: the best of 3 members"
    assert later[2][1][0].startswith("member: ")


def test_a_run_of_one_epoch_has_its_cost_drawn(tmp_path):
    run = report.load_run(manual_run(tmp_path / "run", 1))
    (axes,) = figures.draw(charts.cost([run])).axes
    assert axes.lines[0].get_xydata().tolist() == [[0, 0], [1, 10]]


def test_what_never_changes_is_told_and_not_drawn(tmp_path):
    rows = [decision(0, [A, A | {"learning_rate": 0.3}], [40.0, 30.0], 10.0, 0)]
    run = report.load_run(make_run(tmp_path / "run", METRICS[:1], rows))
    chart = charts.hyperparameters([run])
    assert [panel.y for panel in chart.panels] == ["learning_rate"]
    assert "Never changed: momentum 0.9." in chart.caption


def test_predictions_of_probes_alone_are_drawn(tmp_path):
    told = {"posterior_mean": [0.3], "posterior_stddev": [0.1]}
    probes = [decision(0, [A], [-2.0], -2.3, -1, **told)]
    run = report.load_run(make_run(tmp_path / "run", METRICS, probes))
    chart = charts.gains([run])
    assert [key.text for key in chart.keys] == ["probes", "predicted = realised"]
    assert figures.render(chart).startswith(b"\x89PNG")
    assert 'class="bars c1"' in parts.figure(chart)
