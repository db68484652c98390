"""What a row of decisions.jsonl says, in words."""

from written_runs import DECISIONS

from hyperdyn_jax.run import verdicts


def test_a_decision_tells_its_draw():
    row = DECISIONS[3] | {"draw": 0.25}
    reason = "random draw 0.250 is below the keep probability 0.500"
    assert verdicts.reason(row) == reason
    row |= {"draw": 0.75, "branch": 1, "scores": [47.75, 48.0]}
    reason = "random draw 0.750 is not below the keep probability 0.500"
    assert verdicts.reason(row) == reason


def test_probes_are_told_from_failed_attempts():
    probe = {"branch": -1, "keep_probability": None, "trials": [{}], "scores": [-2.0]}
    assert verdicts.outcome(probe) == "probed"
    assert not verdicts.has_incumbent(probe)
    failed = probe | {"scores": [None]}
    assert verdicts.outcome(failed) == "rolled back"


def test_rounding_never_makes_a_one():
    assert verdicts.short({"b2": 0.9996, "b1": 1.0}) == "b2 0.9996 b1 1"
    assert verdicts.number(0.99999) == "0.99999"


def test_the_end_of_a_race_tells_its_p_value():
    race = {"branch": 0, "kept": True, "trials": [{}, {}], "scores": [-1.0, -2.0]}
    race |= {"epoch": 3, "parents": [0, 1], "p_value": 0.6}
    stays = "the base stays, as none of 2 is better by more than noise"
    assert verdicts.reason(race) == f"{stays} (test against chance: p = 0.6)"
    race |= {"kept": False, "following": {"learning_rate": 0.014}, "p_value": 0.0005}
    found = "goes on with learning_rate 0.014, expected to end best"
    assert verdicts.reason(race) == f"{found} (test against chance: p = 0.0005)"
    assert verdicts.outcome(race) == "race"
