"""What a row of decisions.jsonl says, in words."""

from written_runs import DECISIONS

from hyperdyn_jax.run import verdicts


def test_a_decision_tells_its_draw():
    row = DECISIONS[3] | {"draw": 0.25}
    reason = "random draw 0.250 is below the keep probability 0.500"
    assert verdicts.reason(row) == reason
    risen = verdicts.reason(row | {"keep_probability": 1.0})
    assert risen == "the score is higher than a few epochs ago"
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
    told = "the base stays: rates do not differ by more than noise (p = 0.6)"
    assert verdicts.reason(race) == told
    told = "rates differ (p = 0.016), but no other is expected to end clearly better"
    assert verdicts.reason(race | {"p_value": 0.0156}) == f"the base stays: {told}"
    race |= {"kept": False, "following": {"learning_rate": 0.014}, "p_value": 0.0005}
    found = "goes on with learning_rate 0.014, expected to end best"
    assert verdicts.reason(race) == f"{found} (test against chance: p = 0.0005)"
    assert verdicts.outcome(race) == "race"
