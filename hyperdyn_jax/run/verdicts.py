"""What a row of decisions.jsonl says, in words: for the terminal and for the page."""

import math

from hyperdyn_jax.run.jsonl import Row
from hyperdyn_jax.strategies.drift import LEVEL

SHORT = {"learning_rate": "lr", "weight_decay": "wd"}  # on a terminal


def entry(row: Row, key: str, index: int) -> float | None:
    """A field of one trial; None where there is none."""
    values = row.get(key)
    return None if values is None or index >= len(values) else known(values[index])


def known(value: float | None) -> float | None:
    """A number; None for NaN and infinity too, which a file has as null."""
    return None if value is None or not math.isfinite(value) else value


def gain_of(row: Row, index: int) -> float | None:
    """Score minus the score that all branches started from; None if infeasible."""
    score, before = entry(row, "scores", index), known(row["score_before"])
    return None if score is None or before is None else score - before


def prediction_of(row: Row, index: int) -> tuple[float, float] | None:
    """Mean and deviation of the latent gain; None without a model."""
    mean, stddev = (entry(row, f"posterior_{x}", index) for x in ("mean", "stddev"))
    return None if mean is None or stddev is None else (mean, stddev)


def has_incumbent(row: Row) -> bool:
    """Whether trial 0 is an incumbent, and not one of several random settings."""
    if probed(row):
        return False
    count = len(row["trials"])
    predicted = any(entry(row, "posterior_mean", i) is not None for i in range(count))
    return count == 1 or known(row.get("keep_probability")) is not None or predicted


def probed(row: Row) -> bool:
    """Whether trials were probes, which leave the run where it was however they end."""
    count = len(row["trials"])
    scored = any(entry(row, "scores", i) is not None for i in range(count))
    stays = row["branch"] < 0 and went_back_to(row) is None
    return stays and scored and known(row.get("keep_probability")) is None


def went_back_to(row: Row) -> int | None:
    """The step that a run that fell behind goes back to; None if it does not."""
    back = row.get("rollback") or {}
    return None if "attempt" in back else back.get("step")


def role(row: Row, index: int) -> str:
    """What a trial was, in a word."""
    if probed(row):
        return " ".join(filter(None, ("probe", row.get("probe"))))
    if len(row["trials"]) == 1:
        return "setting"
    if _is_population(row):
        return "member"
    if row.get("parents"):
        return "base" if row.get("base") == index else "trial"
    if has_incumbent(row):
        return "challenger" if index else "incumbent"
    return "random"


def outcome(row: Row) -> str:
    """What came of a decision, in a word or two."""
    if row["branch"] < 0:
        if went_back_to(row) is not None:
            return "went back"
        return "probed" if probed(row) else "rolled back"
    if len(row["trials"]) == 1:
        return "continued"
    if not has_incumbent(row):
        if _is_population(row) and row["epoch"]:
            return "population"
        if row.get("parents") and not _is_population(row):
            return "race"
        return "random start" if row["epoch"] == 0 else "best of random"
    return "kept" if row["branch"] == 0 else "switched"


def reason(row: Row) -> str:
    """Why a decision came out as it did, in a sentence without its full stop."""
    count = len(row["trials"])
    if row["branch"] < 0:
        return _reason_to_stay(row)
    if count == 1:
        return "no trial in this epoch"
    if not has_incumbent(row):
        if _is_population(row) and row["epoch"]:
            return f"the best of {count} members"
        if row.get("parents") and not _is_population(row):
            return _reason_of_a_race(row)
        return f"the best of {count} random settings"
    probability, draw = known(row.get("keep_probability")), known(row.get("draw"))
    if probability is None or draw is None:
        return "by the scores of both branches"
    if (draw < probability) != (row["branch"] == 0):
        return "the branch that the test chose diverged"
    if probability == 1:
        return "the score is higher than a few epochs ago"
    relation = "below" if draw < probability else "not below"
    return (
        f"random draw {draw:.3f} is {relation} the keep probability {probability:.3f}"
    )


def _reason_of_a_race(row: Row) -> str:
    p_value, count = known(row.get("p_value")), len(row["trials"])
    if row.get("kept"):
        return f"the base stays{_why_it_stays(row, p_value)}"
    sure = "" if p_value is None else f" (test against chance: p = {p_value:.2g})"
    if following := row.get("following"):
        text = f"goes on with {setting(following)}, expected to end best{sure}"
        if end := row.get("end"):
            text += f"; no rate beyond it was tried: widen the range at its {end} end"
        return text
    return f"the best of {count} settings, trained from the same start"


def _why_it_stays(row: Row, p_value: float | None) -> str:
    if needed := row.get("needed_steps"):
        return f": another rate can only be chosen in a run of {needed:,} steps or more"
    if p_value is None:
        return ""
    if p_value > LEVEL:
        return f": rates do not differ by more than noise (p = {p_value:.2g})"
    why = "no other is expected to end clearly better"
    return f": rates differ (p = {p_value:.2g}), but {why}"


def _is_population(row: Row) -> bool:
    """Whether the trials are members of PB2's population: only its model forgets at a
    rate of its own."""
    return "epsilon" in (row.get("gp") or {})


def _reason_to_stay(row: Row) -> str:
    if (step := went_back_to(row)) is not None:
        return f"clearly behind its best score; the run goes back to step {step:,}"
    if not probed(row):
        back = row.get("rollback") or {}
        where = f"step {back['step']:,}" if "step" in back else "the state before"
        text = f"every branch diverged; back to {where}"
        text += f", attempt {back['attempt']}" if "attempt" in back else ""
        limit = known(back.get("learning_rate_limit"))
        most = f"; learning rate at most {limit:.3g} from now on" if limit else ""
        return text + most
    return "the run stays where it is"


def number(value: float | None, form: str = ".4g") -> str:
    """A number, or "–" where there is none; a number other than 1 is never rounded to
    1."""
    if value is None or not math.isfinite(value):
        return "–"
    exact = f"{value:.7g}"
    text = format(value, form)
    return exact if text == "1" and exact != "1" else text


def signed(value: float) -> str:
    """A difference, with its sign."""
    text = f"{value:+.2f}".replace("-", "−")
    return "0.00" if text in ("+0.00", "−0.00") else text


def setting(hparams: Row) -> str:
    """Hyperparameters, in words."""
    return ", ".join(f"{name} {number(value)}" for name, value in hparams.items())


def short(hparams: Row) -> str:
    """The same in fewer."""
    return " ".join(f"{SHORT.get(k, k)} {number(v, '.3g')}" for k, v in hparams.items())
