"""Run directories whose numbers are known, and what a page of them says."""

import json
from html.parser import HTMLParser


class Page(HTMLParser):
    """Tables as rows of cells by their names, facts, links and tags of a page."""

    def __init__(self, path):
        super().__init__()
        self.tables, self.facts, self.links, self.tags = [], {}, [], []
        self.names, self.cell = [], None
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        keys = ("src", "href", "srcset", "data", "action", "poster")
        self.links += [attrs[key] for key in keys if key in attrs]
        if tag == "table":
            self.tables.append([])
            self.names.append(attrs["data-table"])
        elif tag == "tr":
            self.tables[-1].append([])
        if tag in ("th", "td", "dt", "dd"):
            self.cell = ""

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.tables[-1][-1].append(self.cell.replace("\u00a0", " "))
        elif tag == "dt":
            self.name = self.cell
        elif tag == "dd":
            self.facts[self.name] = self.cell
        if tag in ("th", "td", "dt", "dd"):
            self.cell = None

    def handle_data(self, data):
        if self.cell is not None:
            self.cell += data

    def table(self, name, number=0):
        """The rows of a table, each by the head of its columns."""
        found = [t for t, n in zip(self.tables, self.names, strict=True) if n == name]
        head, *rows = found[number]
        return [dict(zip(head, row, strict=True)) for row in rows]

    def decisions(self, number=0):
        """(epoch, decision, [(tried, predicted, realised)]) of each decision; without
        the prediction where none was made."""
        found = []
        which = [i for i, name in enumerate(self.names) if name == "decisions"]
        head, *rows = self.tables[which[number]]
        for row in rows:
            if len(row) == len(head):
                found.append((row[0].removeprefix("Epoch "), row[1], []))
            found[-1][2].append(tuple(row[2 - len(head) :]))
        return found


def setting(learning_rate, momentum=0.9):
    return {"learning_rate": learning_rate, "momentum": momentum}


def metric(epoch, step, total, accuracy, hyperparams, **more):
    return {
        "epoch": epoch,
        "step": step,
        "total_steps": total,
        "train_loss": 2.0 / (epoch + 1),
        "validation_accuracy": accuracy,
        "validation_loss": 1.0,
        "hyperparams": hyperparams,
        "seconds": 30.5,
        **more,
    }


def decision(epoch, trials, scores, before, branch, **more):
    nulls = [None] * len(trials)
    return {
        "epoch": epoch,
        "trials": trials,
        "scores": scores,
        "score_before": before,
        "branch": branch,
        "kept": False,
        "keep_probability": None,
        "posterior_mean": nulls,
        "posterior_stddev": nulls,
        "expected_improvement": nulls,
        "gp": None,
        "extra_steps": 10,
        **more,
    }


A, B, C, D = setting(0.1), setting(0.5, 0.5), setting(0.02, 0.99), setting(0.9, 0.0)
GP = {
    "length_scales": {"learning_rate": 0.4},
    "amplitude": 1.0,
    "noise": 0.25,
    "noise_stddev": 2.5,  # percentage points
}

METRICS = [
    metric(0, 10, 30, 40.0, A),
    metric(1, 20, 50, 45.0, A),
    metric(2, 30, 70, 47.25, C),
    metric(3, 40, 90, 47.75, C, test_accuracy=46.5, test_loss=1.3),
]
DECISIONS = [
    decision(0, [A, B, D], [40.0, 30.0, None], 10.0, 0),
    decision(
        1,
        [A, B],
        [45.0, 41.0],
        40.0,
        0,
        kept=True,
        keep_probability=1.0,
        posterior_mean=[6.0, 12.0],
        posterior_stddev=[1.0, 2.0],
        gp=GP,
    ),
    decision(
        2,
        [A, C],
        [44.0, 47.25],
        45.0,
        1,
        keep_probability=0.125,
        posterior_mean=[0.5, 1.5],
        posterior_stddev=[0.25, 0.5],
        gp=GP | {"noise_stddev": 5.75},
    ),
    decision(
        3,
        [C, D],
        [47.75, None],
        47.25,
        0,
        kept=True,
        keep_probability=0.5,
        draw=0.75,  # a switch, to a branch that diverged
        posterior_mean=[0.5, -1.0],
        posterior_stddev=[0.25, 0.5],
        gp=GP,
    ),
]
SPACE = {
    "learning_rate": {"kind": "log_uniform", "low": 1e-3, "high": 1.0},
    "momentum": {"kind": "log_complement", "low": 0.0, "high": 0.99},
}


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


def make_run(path, metrics=METRICS, decisions=DECISIONS, **config):
    path.mkdir(parents=True)
    config = {
        "name": "demo",
        "epochs": 4,
        "strategy": "hyperdyn",
        "search_space": SPACE,
    } | config
    (path / "config.json").write_text(json.dumps(config))
    (path / "metrics.jsonl").write_text(lines(metrics))
    (path / "decisions.jsonl").write_text(lines(decisions))
    return path


def write_run(folder, accuracies, strategy, seed=0, **changes):
    """A finished run of 10 steps an epoch; every trial doubles the total."""
    changes = {"optimizer": "sgd", "batch_size": 128, "dataset": "cifar10"} | changes
    trials = changes.pop("trials", 1)
    config = {
        "name": "run",
        "seed": seed,
        "epochs": len(accuracies),
        "strategy": strategy,
        **changes,
        "optimizer": {"name": changes["optimizer"]},
    }
    rows = [
        {
            "epoch": i,
            "step": 10 * (i + 1),
            "total_steps": 10 * trials * (i + 1),
            "train_loss": 1.0,
            "validation_accuracy": accuracy,
            "hyperparams": {"learning_rate": 0.1 / (i + 1), "b1": 0.9, "b2": 0.99},
            "seconds": 1.0,
        }
        for i, accuracy in enumerate(accuracies)
    ]
    rows[-1]["test_accuracy"] = accuracies[-1] - 1
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (folder / "decisions.jsonl").write_text("")
