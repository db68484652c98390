"""Compare: groups, bands and differences, checked by hand and by scipy."""

import itertools

import numpy as np
import pytest
from scipy import stats
from written_runs import METRICS, Page, make_run, metric, setting

from hyperdyn_jax import compare, report
from hyperdyn_jax.report import figures


def finished(path, seed, test, strategy="cosine", steps=(10, 20, 30), **config):
    """A run of three epochs: its validation accuracy rises from 50 to the test's."""
    rise = np.linspace(50, test, len(steps))
    rows = [
        metric(i, step, 2 * step, float(rise[i]), setting(0.1))
        for i, step in enumerate(steps)
    ]
    rows[-1] |= {"test_accuracy": float(test)}
    return make_run(path, rows, [], strategy=strategy, seed=seed, **config)


@pytest.fixture
def study(tmp_path):
    """Two strategies of three seeds, their test accuracies known."""
    for seed, (one, other) in enumerate([(60.0, 61.0), (64.0, 66.0), (62.0, 65.0)]):
        finished(tmp_path / "study" / "cosine" / f"seed{seed}", seed, one)
        path = tmp_path / "study" / "hyperdyn" / f"seed{seed}"
        finished(path, seed, other, "hyperdyn", (8, 18, 32))
    return tmp_path / "study"


def test_runs_that_differ_in_the_seed_alone_are_a_group(study):
    groups = compare.group(report.find_runs([study]))
    assert [each.label for each in groups] == ["cosine", "hyperdyn"]
    assert [list(each.runs) for each in groups] == [[0, 1, 2]] * 2


def test_groups_are_named_by_what_tells_them_apart(tmp_path):
    optimizers = [{"name": "sgd", "momentum": 0.9}, {"name": "adam", "b1": 0.9}]
    for i, optimizer in enumerate(optimizers):
        finished(tmp_path / f"a{i}", 0, 60.0, optimizer=optimizer)
    finished(tmp_path / "b", 0, 60.0, optimizer=optimizers[0], batch_size=1000)
    finished(tmp_path / "c", 0, 60.0, "wsd", optimizer=optimizers[0], name="x")
    # Left out, or None: as is usual. A section of another strategy: without effect.
    usual = {"averaging": None, "explore": {"probes": 9}}
    finished(tmp_path / "d", 1, 60.0, "wsd", optimizer=optimizers[0], **usual)
    groups = compare.group(report.find_runs([tmp_path]))
    assert [each.label for each in groups] == [
        "cosine, sgd",
        "cosine, adam",
        "cosine, sgd, batch 1000",
        "wsd, sgd",
    ]
    assert list(groups[-1].runs) == [0, 1]


def test_bands_are_drawn_from_edge_to_edge(study):
    groups = compare.group(report.find_runs([study]))
    drawn_axes = figures.draw(compare.chart(groups)).axes
    for axes, count in zip(drawn_axes, compare.COUNTS, strict=True):
        for each, drawn in zip(groups, axes.collections, strict=True):
            band = compare.band(list(each.runs.values()), count)
            (path,) = drawn.get_paths()
            low, high = path.vertices[:, 1].min(), path.vertices[:, 1].max()
            assert low == pytest.approx((band.mean - band.half).min())
            assert high == pytest.approx((band.mean + band.half).max())


def test_bands_are_students_where_all_runs_are(study):
    (cosine, hyperdyn) = compare.group(report.find_runs([study]))
    runs = list(hyperdyn.runs.values())
    drawn = compare.band(runs, "total_steps")
    assert (drawn.steps[0], drawn.steps[-1]) == (16, 64)
    ends = [61.0, 66.0, 65.0]
    low, high = stats.t.interval(0.95, 2, np.mean(ends), stats.sem(ends))
    assert drawn.mean[-1] == pytest.approx(np.mean(ends))
    assert drawn.mean[-1] + drawn.half[-1] == pytest.approx(high)
    assert drawn.mean[-1] - drawn.half[-1] == pytest.approx(low)
    middle = compare.band([cosine.runs[0]], "step")
    assert np.interp(20, middle.steps, middle.mean) == pytest.approx(55, abs=0.1)
    assert np.isnan(middle.half).all()


def test_bands_end_where_the_first_run_does(tmp_path):
    short = report.load_run(finished(tmp_path / "a", 0, 60.0))
    long = report.load_run(finished(tmp_path / "b", 1, 60.0, steps=(15, 30, 45)))
    drawn = compare.band([short, long], "step")
    assert (drawn.steps[0], drawn.steps[-1]) == (15, 30)


def test_differences_are_by_seed(study, tmp_path):
    finished(tmp_path / "study" / "hyperdyn" / "seed9", 9, 1.0, "hyperdyn")
    (cosine, hyperdyn) = compare.group(report.find_runs([study]))
    assert compare.differences(hyperdyn, cosine) == [1.0, 2.0, 3.0]
    (row,) = compare.paired([cosine, hyperdyn])
    half = stats.t.ppf(0.975, 2) / np.sqrt(3)
    text = row[2].replace("\u00a0", " ")
    assert row[:2] == ["hyperdyn − cosine", "3"]
    assert text == f"+2.00 ± {half:.2f}"


def test_the_page_has_the_numbers(study, tmp_path):
    file, text = compare.write([study], tmp_path / "out")
    page = Page(file)
    cosine, hyperdyn = page.table("results")
    assert cosine == {
        "Group": "cosine",
        "Seeds": "3",
        "Test (%)": "62.00 ± 2.00",
        "Validation (%)": "62.00 ± 2.00",
        "Accepted steps": "30",
        "Total steps": "60",
        "Overhead": "+100.0%",
    }
    assert hyperdyn["Test (%)"] == "64.00 ± 2.65"
    assert page.table("pairs")[0]["Points (± 95%)"].startswith("+2.00 ± ")
    assert len(page.table("runs")) == 6
    assert "default-src 'none'" in page.text
    assert all(link.startswith("data:") or link == "#main" for link in page.links)
    image = (tmp_path / "out" / "compare.png").read_bytes()
    assert image.startswith(b"\x89PNG\r\n\x1a\n")
    assert "| cosine | 3 | 62.00 ± 2.00 | 62.00 ± 2.00 | 30 | 60 | +100.0% |" in text


def test_the_command_says_what_it_wrote(study, tmp_path, capsys):
    out = tmp_path / "out"
    assert compare.main([str(study), f"--output={out}"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(out / "compare.html")


def test_a_single_run_can_be_shown(tmp_path):
    file, text = compare.write([finished(tmp_path / "a", 0, 60.0)], tmp_path / "out")
    assert "pairs" not in Page(file).names
    assert "| cosine | 1 | 60.00 | 60.00 |" in text


def test_bad_input_is_a_line_and_exit_code_2(tmp_path, capsys):
    def told(*paths):
        output = f"--output={tmp_path / 'out'}"
        assert compare.main([*map(str, paths), output]) == 2
        out, error = capsys.readouterr()
        assert (out, error.count("\n")) == ("", 1)
        return error

    assert "error: no finished run in or below" in told(tmp_path / "none")
    one = finished(tmp_path / "one", 0, 60.0)
    for i in range(13):
        finished(tmp_path / "many" / str(i), 0, 60.0, batch_size=i + 1)
    many = told(tmp_path / "many")
    assert "13 groups of runs were given, and at most 12 can be told apart" in many
    assert "give fewer folders" in many
    assert "these differ in batch_size" in many
    (one / "metrics.jsonl").write_text('{"test_accuracy": 1}\n')
    assert "metrics.jsonl, row 1: missing epoch" in told(one)
    assert not (tmp_path / "out").exists()


def test_accuracies_end_at_100(tmp_path):
    for seed, test in enumerate((99.0, 80.0)):
        finished(tmp_path / f"{seed}", seed, test)
    drawn = compare.band(report.find_runs([tmp_path]), "step")
    assert (drawn.mean + drawn.half).max() > 100 == drawn.high.max()


def test_a_winner_needs_evidence(study, tmp_path):
    runs = report.find_runs([study])
    found = compare.best_in_words(compare.group(runs))
    assert found.endswith("do not show that one group is ahead of all.")
    assert "64.00" not in found
    for seed, run in enumerate(runs[:3]):
        test = run.metrics[-1]["test_accuracy"] + 9 + 0.1 * seed
        finished(tmp_path / "better" / f"{seed}", seed, test, "wsd")
    runs += report.find_runs([tmp_path / "better"])
    found = compare.best_in_words(compare.group(runs))
    assert "%: wsd, after 60 total steps" in found
    assert found.endswith("pairs show that it is ahead of every other group.")
    one = [run for run in runs if compare.gather.seed(run) == 0]
    assert compare.best_in_words(compare.group(one)).endswith("add seeds.")
    found = compare.best_in_words(compare.group(one)[:1])
    assert found.startswith("The mean test accuracy is ")


def test_no_group_is_the_best_across_data_sets(tmp_path):
    for seed, dataset in itertools.product(range(3), ("digits", "characters")):
        test = 60.0 + seed + 30 * (dataset == "digits")
        finished(tmp_path / f"{dataset}{seed}", seed, test, dataset=dataset)
    found = compare.best_in_words(compare.group(report.find_runs([tmp_path])))
    assert found == "Their data sets differ, and so no group is named as the best."


def test_the_same_run_given_twice_counts_once(study):
    again = [study, study / "cosine"]
    assert len(report.find_runs(again)) == 6


def optimizer(name, rate, **more):
    return {"optimizer": {"name": name, "learning_rate": rate, **more}}


@pytest.mark.parametrize(
    ("configs", "labels"),
    [
        (  # what no group shares with another is told of each
            [
                ("hyperdyn", optimizer("sgd", 0.1)),
                ("cosine", optimizer("adam", 0.001, b1=0.9)),
                ("explore", optimizer("sgd", 0.2)),
            ],
            [
                "hyperdyn, sgd, learning_rate=0.1",
                "cosine, adam",
                "explore, sgd, learning_rate=0.2",
            ],
        ),
        (  # the settings of the strategies themselves are not
            [
                ("hyperdyn", {"hyperdyn": {"window": 4}, "epochs": 9}),
                ("explore", {"explore": {"probes": 3}, "epochs": 3}),
            ],
            ["hyperdyn, 9 epochs", "explore, 3 epochs"],
        ),
        (
            [
                ("hyperdyn", {"hyperdyn": {"window": 4, "alpha": 1.0}}),
                ("greedy", {"hyperdyn": {"window": 8, "alpha": 1.0}}),
            ],
            ["hyperdyn, window=4", "greedy, window=8"],
        ),
        (  # an average that one has and the other, usually, has not
            [
                ("cosine", {"averaging": 5.0}),
                ("wsd", {"averaging": None, "backtracking": False}),
            ],
            ["cosine, averaging=5.0", "wsd"],
        ),
        (  # what the section of a base says is one of its search
            [
                ("explore", {"explore": {"base": "cosine"}, "cosine": {"floor": f}})
                for f in (0.0, 0.1)
            ],
            ["explore, floor=0.0", "explore, floor=0.1"],
        ),
        (  # more than a name can hold
            [("cosine", {"model": dict.fromkeys("abcdef", i), "pad": i}) for i in "12"],
            [f"cosine, a={i}, b={i}, c={i}, d={i}, 3 more settings" for i in "12"],
        ),
    ],
)
def test_groups_are_named_by_every_setting_that_differs(tmp_path, configs, labels):
    for i, (strategy, config) in enumerate(configs):
        finished(tmp_path / f"{i}", 0, 60.0, strategy, search_space={}, **config)
    groups = compare.group(report.find_runs([tmp_path]))
    assert [each.label for each in groups] == labels


def test_bounds_are_named_with_their_axis(tmp_path):
    for i, high in enumerate((0.5, 1.0)):
        axes = {"learning_rate": {"low": 0.1, "high": high}, "momentum": {"high": 0.9}}
        finished(tmp_path / f"{i}", 0, 60.0, search_space=axes)
    groups = compare.group(report.find_runs([tmp_path]))
    labels = ["cosine, learning_rate.high=0.5", "cosine, learning_rate.high=1.0"]
    assert [each.label for each in groups] == labels


def test_what_is_left_out_is_told(study, tmp_path, capsys):
    run = study / "hyperdyn" / "seed1"
    copy = finished(study / "hyperdyn_again", 1, 9.0, "hyperdyn", data_dir="elsewhere")
    replays = [run / "replays" / "replay" / f"seed{i}" for i in (7, 8)]
    for i, path in enumerate([*replays, study / "replays" / "seed9"]):
        finished(path, i, 1.0, "replay")
    running = make_run(study / "running", METRICS[:-1], [])
    with (running / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 9, "test_accuracy": 9')  # it is being written
    out = f"--output={tmp_path / 'out'}"
    assert compare.main([str(study), out]) == 0
    text, notes = capsys.readouterr()
    assert "| hyperdyn | 3 | 64.00 ± 2.65 |" in text
    assert "replay" not in text
    places = f"{run / 'replays'}, {study / 'replays'}"
    advice = "give that folder itself to include them"
    assert notes.splitlines() == [
        f"note: {running} is left out: not finished",
        f"note: {places} are left out: replays of a run; {advice}",
        f"note: {copy} is left out: the same config and seed 1 as {run}",
    ]
    assert compare.main([str(run / "replays"), out]) == 0
    text, notes = capsys.readouterr()
    assert "| replay | 2 |" in text
    assert notes == ""


def test_a_folder_of_unfinished_runs_says_so(tmp_path, capsys):
    make_run(tmp_path / "runs" / "a", METRICS[:-1], [])
    assert compare.main([str(tmp_path / "runs")]) == 2
    out, error = capsys.readouterr()
    where = tmp_path / "runs"
    why = (
        f"no finished run in or below {where}; {where / 'a'} is left out: not finished"
    )
    assert (out, error) == ("", f"error: {why}\n")


def test_a_folder_without_runs_beside_others_is_told(study, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    out = f"--output={tmp_path / 'out'}"
    assert compare.main([str(study), str(tmp_path / "empty"), out]) == 0
    told = capsys.readouterr().err
    assert told == f"note: {tmp_path / 'empty'} is left out: there is no run in it\n"


def test_an_output_that_is_a_file_is_told_before_anything(study, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        assert compare.main([str(study), f"--output={place}"]) == 2
        out, error = capsys.readouterr()
        why = f"{tmp_path / 'file'} is not a writable folder"
        assert (out, error) == (
            "",
            f"error: --output={place} cannot be written: {why}\n",
        )
    assert (tmp_path / "file").read_text() == "kept"


def test_the_legend_says_what_a_band_is(study, tmp_path):
    keys = compare.chart(compare.group(report.find_runs([study]))).keys
    assert [key.text for key in keys if key.shapes == "band"] == [
        "95% interval of the mean"
    ]
    finished(tmp_path / "alone", 0, 60.0)
    alone = compare.group(report.find_runs([tmp_path / "alone"]))
    assert not [key for key in compare.chart(alone).keys if key.shapes == "band"]
