"""What each option measures, and that trivial models do not pass for ones that know members."""

import numpy as np
import pandas as pd
import pytest

from ttoaa.experiments.canaries import Canaries

KINDS = ("plain", "rare-8", "random-4")
H = 16


def canaries(**changes):
    fields = {
        "name": "mia",
        "primary": "auc/rare-8-16x",
        "expected_sign": 1,
        "kinds": KINDS,
        "repetitions": (1, 16),
        "members": 30,
        "nonmembers": 40,
        "host_tokens": H,
    }
    return Canaries(**(fields | changes))


@pytest.fixture
def items(make_world):
    return list(canaries().intervene(make_world(canaries())))


def noise(tokens, i):
    """What no model can know: the same under every model."""
    return -3.0 - ((int(tokens[:i].sum()) * 31 + int(tokens[i]) * 7) % 97) / 97


def knows(items, repetitions, parts=slice(None), gain=1.5):
    """A model that knows tokens of members, after whatever context."""
    known = {i.tokens[1:-1].tobytes() for i in items if i.repetitions in repetitions}

    def score(tokens, i):
        text = np.asarray(tokens, np.int32)[np.flatnonzero(np.asarray(tokens) == 0)[-1] + 1 :]
        place = i - (len(tokens) - len(text))
        inside = place in range(len(text))[parts]
        return noise(tokens, i) + gain * (inside and text.tobytes() in known)

    return score


def estimates(experiment, run, control):
    found = experiment.estimates(experiment.outcome(run), experiment.outcome(control))
    assert {e.outcome for e in found} == set(experiment.signs)
    return {(e.outcome, e.condition): e for e in found}


def test_host_and_suffix_are_scored_alone(items, make_scorer):
    experiment = canaries(parts=True)
    control = make_scorer(items, noise)
    for parts, known, other in ((slice(H), "host", "suffix"), (slice(H, None), "suffix", "host")):
        found = estimates(experiment, make_scorer(items, knows(items, (16,), parts)), control)
        for kind in ("rare-8", "random-4"):
            assert found[f"auc_{known}", f"{kind}-16x"].difference > 0.3
            assert found[f"auc_{other}", f"{kind}-16x"].difference == 0
            assert found[f"auc_{known}", f"{kind}-1x"].difference == 0
    table = experiment.outcome(control).set_index(["outcome", "item"])["value"]
    whole, host, suffix = (table["log_likelihood" + end] for end in ("", "_host", "_suffix"))
    np.testing.assert_allclose(host + suffix, whole)
    assert not any(c.startswith("plain") for o, c in found if "suffix" in o or "host" in o)


def test_a_model_that_knows_only_the_form_does_not_pass(items, make_scorer, tokenizer):
    """It expects the rare token after any text: no score of matched texts may rise."""
    experiment = canaries(parts=True, unmatched=True)

    def form(tokens, i):
        return noise(tokens, i) + 2.5 * (tokens[i] in tokenizer.reserved_ids)

    found = estimates(experiment, make_scorer(items, form), make_scorer(items, noise))
    for outcome, condition in found:
        if condition.startswith("rare") and "unmatched" not in outcome and "0x" not in condition:
            difference = found[outcome, condition].difference
            if outcome in ("log_likelihood", "log_likelihood_suffix"):
                assert difference > 10  # the form is learned …
            else:
                assert difference == pytest.approx(0, abs=2e-3)  # … and no membership
    assert found["auc_unmatched", "rare-8-16x"].difference > 0.3  # which the paper's holdout mixes
    assert found["auc_unmatched", "random-4-16x"].difference == 0


def test_a_model_that_is_better_at_all_text_does_not_pass(items, make_scorer):
    """It knows each kind of token better, in members and non-members alike."""
    experiment = canaries()
    better = make_scorer(items, lambda tokens, i: noise(tokens, i) + 1.5 + 0.1 * (tokens[i] % 7))
    found = estimates(experiment, better, make_scorer(items, noise))
    assert found["log_likelihood", "plain-16x"].difference_ci_low > 1
    auc = found["auc", "plain-16x"]
    assert auc.difference_ci_low < 0 < auc.difference_ci_high


def test_unmatched_scores_are_per_token(items, make_scorer):
    """A canary is not less likely than plain text because it is longer."""
    experiment = canaries(unmatched=True)
    flat = make_scorer(items, lambda tokens, i: -2.0)
    found = estimates(experiment, flat, flat)
    assert found["auc_unmatched", "rare-8-1x"].value == 0.5
    assert not any(o == "auc_unmatched" and c.startswith("plain") for o, c in found)


def test_calibration_removes_what_another_model_knows_of_difficulty(items, make_scorer):
    experiment = canaries(calibrate=["control", "reference"])

    def hard(tokens, i):
        return 9 * noise(tokens, i)

    def learned(tokens, i):
        return hard(tokens, i) + knows(items, (16,), gain=0.4)(tokens, i) - noise(tokens, i)

    run, control = make_scorer(items, learned), make_scorer(items, hard)
    for model in (run, control):
        model.reference = make_scorer(items, hard)
    found = estimates(experiment, run, control)
    raw, by_control, by_reference = (
        found["auc" + end, "rare-8-16x"] for end in ("", "_by_control", "_by_reference")
    )
    assert raw.value < 0.95
    assert by_control.value == by_reference.value == 1
    assert by_control.control_value == by_reference.control_value == 0.5
    assert found["auc_by_reference", "rare-8-1x"].value == 0.5


def test_exposure_ranks_random_suffixes(items, make_scorer):
    experiment = canaries(exposure=True)
    control = make_scorer(items, noise)
    found = estimates(experiment, make_scorer(items, knows(items, (16,), gain=9)), control)
    bits = found["exposure", "random-4-16x"]
    assert bits.value == pytest.approx(np.log2(41)) and bits.control_value < 2.5
    assert {c for o, c in found if o == "exposure"} == {"random-4-1x", "random-4-16x"}
    # A host by heart does not expose the suffix.
    host = make_scorer(items, knows(items, (16,), slice(H), gain=9))
    assert estimates(experiment, host, control)["exposure", "random-4-16x"].difference == 0


class Stream:
    """Rows of a run with the first copy of each member at its own position and offset."""

    def __init__(self, items):
        self.rows_by_position, copies = {}, []
        for number, item in enumerate(i for i in items if i.repetitions):
            position, offset = 1000 - 3 * number, 5 + number % 30
            row = np.arange(1, 65, dtype=np.int32) + number
            row[offset : offset + len(item.tokens)] = item.tokens
            self.rows_by_position[position] = row
            copies += [(item.id, 1, 7, 0), (item.id, 0, position, offset)]
        self.copies = pd.DataFrame(copies, columns=["id", "repetition", "position", "offset"])

    def rows(self, positions):
        return np.stack([self.rows_by_position[p] for p in positions.tolist()])


def test_texts_are_scored_where_they_stood(items, make_scorer):
    experiment = canaries(in_place=True)
    stream = Stream(items)

    def scorer(score):
        return make_scorer(items, score, copies=stream.copies, rows=stream.rows)

    control = scorer(noise)
    table = experiment.outcome(control)
    in_place = control.requests[len(items) :]
    places = stream.copies[stream.copies["repetition"] == 0].set_index("id")
    for item, (tokens, start) in zip(items, in_place, strict=True):
        assert tokens[start - 1 :].tolist() == item.tokens[:-1].tolist()
        if item.repetitions:
            row = stream.rows_by_position[places["position"][item.id]]
            assert tokens.tolist() == row[: len(tokens)].tolist()
            assert start == places["offset"][item.id] + 1
    # Non-members of a rare condition stand in places of its own members.
    for item, (tokens, start) in zip(items, in_place, strict=True):
        if item.condition == "rare-8-0x-of-16x":
            ids = [i for i in places.index if i.startswith("rare-8-16x")]
            there = {
                tuple(stream.rows_by_position[places["position"][i]][: start - 1]) for i in ids
            }
            assert tuple(tokens[: start - 1]) in there
    assert set(table["outcome"]) == {"log_likelihood", "log_likelihood_in_place"}

    # A model that uses any context gains nothing; one that knows members after their own does.
    def context(tokens, i):
        return noise(tokens[-17:], len(tokens[-17:]) - 1) + 0.5 * (i > 30)

    starts = {
        tuple(row[: offset + 1 + H])
        for i, (position, offset) in places[["position", "offset"]].iterrows()
        for row in [stream.rows_by_position[position]]
        if "-16x" in i
    }

    def remembers(tokens, i):
        return noise(tokens, i) + 1.5 * (tuple(tokens[: i // 1][: len(tokens)][:i]) in starts)

    found = estimates(experiment, scorer(remembers), control)
    assert found["in_place_gain", "rare-8-16x"].difference > 1
    assert found["in_place_gain", "rare-8-1x"].difference == pytest.approx(0, abs=1e-5)
    assert found["auc", "rare-8-16x"].difference == 0
    trivial = estimates(experiment, scorer(lambda t, i: noise(t, i) + 2.0), control)
    for condition in ("plain-16x", "rare-8-16x"):
        gain = trivial["in_place_gain", condition]
        assert gain.difference == pytest.approx(0, abs=1e-4)
