import json
from collections import Counter

import gin
import numpy as np
import pytest

from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.benchmarks.question import Question, question_from_item, randomise_groups
from ttoaa.benchmarks.readers import RecordQuestions
from ttoaa.experiments.contamination import Contamination
from ttoaa.planning.placement import Uniform, Within
from ttoaa.statistics.bootstrap import keyed_rng

GROUPS = ((0, 40), (4, 20), (144, 8))


def contamination(**changes):
    fields = {
        "name": "bc",
        "primary": "accuracy_above_holdout/144x",
        "expected_sign": 1,
        "groups": GROUPS,
    }
    return Contamination(**(fields | changes))


class Given:
    def __init__(self, *questions):
        self.given = list(questions)

    def questions(self, count, rng):
        return self.given


def question(id, context, *continuations, label=0, benchmark="b"):
    return Question(id, benchmark, (context,) * len(continuations), continuations, label)


def test_items_hold_the_gold_choice_between_two_eos(make_world, tokenizer):
    items = list(contamination().intervene(make_world(contamination())))
    assert Counter((i.condition, i.repetitions) for i in items) == {
        ("0x", 0): 40,
        ("4x", 4): 20,
        ("144x", 144): 8,
    }
    assert len({i.id for i in items}) == 68
    for item in items:
        label = item.fields["label"]
        gold = item.fields["contexts"][label] + item.fields["continuations"][label]
        assert item.text == gold and item.placement == Uniform()
        assert item.tokens.dtype == np.int32
        assert item.tokens[0] == item.tokens[-1] == tokenizer.eos_id
        assert tokenizer.decode(item.tokens[1:-1]) == gold


def test_items_depend_on_seed_and_name_alone(make_world, same_items):
    experiment = contamination()
    items = list(experiment.intervene(make_world(experiment)))
    assert same_items(items, list(experiment.intervene(make_world(experiment))))
    for other in ({"seed": 1}, {"name": "other"}):
        assert not same_items(items, list(experiment.intervene(make_world(experiment, **other))))


def test_randomisation_keeps_the_mix_and_is_uniform():
    made = [question(f"{b}{i}", "c", " x", benchmark=b)
            for b, n in (("big", 600), ("small", 200)) for i in range(n)]  # fmt: skip
    groups = randomise_groups(made, [400, 200, 40], keyed_rng("r"))
    assert [len(g) for g in groups] == [400, 200, 40]
    assert len({q.id for g in groups for q in g}) == 640
    for group in groups:
        share = Counter(q.benchmark for q in group)["small"]
        assert abs(share - len(group) / 4) <= 1
    # Every question is equally likely to land in the last group (p = 40/800), whatever its place.
    hits = Counter(
        q.id
        for k in range(200)
        for q in randomise_groups(made, [400, 200, 40], keyed_rng("u", k))[2]
    )
    thirds = [sum(hits[f"big{i}"] for i in range(start, start + 200)) for start in (0, 200, 400)]
    assert all(abs(count - 2000) < 5 * np.sqrt(2000) for count in thirds)


def test_the_first_eos_gives_way_where_a_row_has_no_room(make_world, tokenizer):
    n = len(tokenizer.encode("A cat sat"))
    source = Given(question("q1", "A cat", " sat", " ate"), question("q2", "A dog", " sat", " ate"))
    experiment = contamination(questions=source, groups=((0, 1), (4, 1)), primary="accuracy/4x")
    lengths = {}
    for row in (n + 2, n + 1):
        items = list(experiment.intervene(make_world(experiment, length=row)))
        lengths[row] = [(len(i.tokens), int(i.tokens[0] == tokenizer.eos_id)) for i in items]
        assert all(i.tokens[-1] == tokenizer.eos_id for i in items)
    assert lengths == {n + 2: [(n + 2, 1)] * 2, n + 1: [(n + 1, 0)] * 2}
    with pytest.raises(ValueError, match=f"bc: question q.: a choice has {n} tokens"):
        list(experiment.intervene(make_world(experiment, length=n)))


def hand_scored(make_world, make_scorer, tokenizer, normalisation):
    """Every scored token of choice k costs its hand-set price; one question, four-letter unit."""
    source = Given(
        question("q", "Is", " a", " bbbb", " cc", label=1),
        question("holdout", "Was", " a", " bbbb", " cc", label=1),
    )
    groups = ((0, 1), (4, 1))
    experiment = contamination(
        questions=source, groups=groups, primary="accuracy/4x", normalisation=normalisation
    )
    items = list(experiment.intervene(make_world(experiment)))
    price = {" a": -3.0, " bbbb": -8.0, " cc": -5.0}

    def score(tokens, i):
        text = tokenizer.decode(tokens[1:])
        continuation = " " + text.split(" ", 1)[1]
        n = len(tokenizer.encode_pair("Is", continuation)[0]) - len(tokenizer.encode("Is"))
        return price[continuation] / n

    model = make_scorer(items, score)
    table = experiment.outcome(model)
    assert all(tokens[0] == tokenizer.eos_id for tokens, _ in model.requests)
    return table[table["condition"] == "4x"].set_index("outcome")["value"]


@pytest.mark.parametrize(
    ("normalisation", "right"),
    # Sums -3, -8, -5; by character -3, -2, -2.5; the gold choice is the second.
    [("none", 0.0), ("character", 1.0)],
)
def test_outcome_by_hand(make_world, make_scorer, tokenizer, normalisation, right):
    values = hand_scored(make_world, make_scorer, tokenizer, normalisation)
    assert values["accuracy"] == right
    assert values["gold_log_likelihood"] == pytest.approx(-8.0, abs=1e-5)


def test_normalisation_by_token_and_shared_ties(make_world, make_scorer):
    # All tokens score alike: per token every choice ties, so the gold one gets its share.
    experiment = contamination(normalisation="token")
    items = list(experiment.intervene(make_world(experiment)))
    table = experiment.outcome(make_scorer(items))
    accuracy = table[table["outcome"] == "accuracy"]
    assert (accuracy["value"] == 0.25).all() and len(accuracy) == 68
    gold = table[table["outcome"] == "gold_log_likelihood"].set_index("item")["value"]
    for item in items:
        context, continuation = (item.fields[k][item.fields["label"]]
                                 for k in ("contexts", "continuations"))  # fmt: skip
        assert item.text == context + continuation
        assert -len(item.tokens) < gold[item.id] <= -1


PMI_PRICES = {
    # After the question -3, -8, -5; without it -1, -9, -2: PMI -2, 1, -3.
    "Is": {" a": -3.0, " bbbb": -8.0, " cc": -5.0},
    "Answer:": {" a": -1.0, " bbbb": -9.0, " cc": -2.0},
}


def pmi_values(make_world, make_scorer, tokenizer, normalisation, benchmark="b", label=1):
    """The accuracy of one question with its prices set by hand, and how many requests it took."""
    options = (" a", " bbbb", " cc")
    source = Given(*(
        Question(id, benchmark, (context,) * 3, options, label, "Answer:")
        for id, context in (("q", "Is"), ("holdout", "Is it"))
    ))  # fmt: skip
    experiment = contamination(
        questions=source,
        groups=((0, 1), (4, 1)),
        primary="accuracy/4x",
        normalisation=normalisation,
    )
    items = list(experiment.intervene(make_world(experiment)))
    assert all(item.fields["unconditional"] == "Answer:" for item in items)

    def score(tokens, i):
        context, _, option = tokenizer.decode(tokens[1:]).rpartition(" ")
        starts = tokenizer.encode_pair(context, f" {option}")[1]
        return PMI_PRICES[context.split()[0]][f" {option}"] / (len(tokens) - 1 - starts)

    model = make_scorer(items, score)
    found = experiment.outcome(model)
    accuracy = found[found["outcome"] == "accuracy"].set_index("item")["value"]
    assert set(accuracy.index) == {"q", "holdout"} and not accuracy.isna().any()
    assert all(tokens[0] == tokenizer.eos_id for tokens, _ in model.requests)
    return accuracy["q"], len(model.requests)


@pytest.mark.parametrize(
    ("normalisation", "benchmark", "chosen", "requests"),
    # The three after "Answer:" are asked for only where PMI needs them.
    [
        ("none", "b", 0, 6),
        ("pmi", "b", 1, 9),
        ("olmes", "arc_challenge", 1, 9),
        ("olmes", "boolq", 0, 6),
        ("olmes", "mmlu_human_aging", 1, 6),  # by character -3, -2, -2.5
    ],
)
def test_each_normalisation_chooses_its_own(
    make_world, make_scorer, tokenizer, normalisation, benchmark, chosen, requests
):
    for label in range(3):
        found = pmi_values(make_world, make_scorer, tokenizer, normalisation, benchmark, label)
        assert found == (float(label == chosen), requests)


def test_pmi_needs_questions_that_say_after_what(make_world):
    for normalisation, benchmark, message in (
        ("pmi", "b", "bc: question q has no unconditional context, which normalisation 'pmi'"),
        ("olmes", "openbookqa", "bc: question q has no unconditional context"),
        ("olmes", "b", "bc: no format is named 'b'"),
    ):
        source = Given(question("q", "Is", " a", " b", benchmark=benchmark))
        experiment = contamination(questions=source, normalisation=normalisation)
        with pytest.raises(ValueError, match=message):
            list(experiment.intervene(make_world(experiment)))


def test_items_without_an_unconditional_context_have_no_such_field(make_world):
    """So that plans of questions without one stay what they were."""
    items = contamination().intervene(make_world(contamination()))
    fields = {"benchmark", "contexts", "continuations", "label"}
    assert all(set(item.fields) == fields for item in items)


def test_a_plan_s_table_holds_what_pmi_needs(plan_of, tmp_path):
    """Questions from a file, through a plan on disk, are what they were."""
    path = tmp_path / "piqa.jsonl"
    records = [{"goal": f"Dry {x}", "sol1": "wipe", "sol2": "fill", "label": 0} for x in "ab"]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    source = RecordQuestions([str(path)], "piqa")
    experiment = contamination(
        questions=source, groups=((0, 1), (4, 1)), primary="accuracy/4x", normalisation="pmi"
    )
    rows = plan_of([experiment]).items("bc").sort_values("id")
    made = [question_from_item(row, unconditional=True) for row in rows.itertuples()]
    assert made == source.questions(2, keyed_rng("a"))
    assert {question.unconditional for question in made} == {"Answer:"}
    assert question_from_item(next(rows.itertuples()), unconditional=False).unconditional is None


def test_gin_makes_it():
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config("""
            early/Contamination.name = 'early'
            early/Contamination.primary = 'accuracy_above_holdout/4x'
            early/Contamination.expected_sign = 1
            early/Contamination.questions = @GeneratedQuestions()
            early/Contamination.groups = ((0, 10), (4, 10))
            early/Contamination.placement = @Within()
            GeneratedQuestions.answers = 7
            Within.start = 0.1
            Within.stop = 0.2
        """)
        try:
            with gin.config_scope("early"):
                made = Contamination()
        finally:
            gin.clear_config()
    assert made.placement == Within(0.1, 0.2) and made.name == "early"
    assert made.questions == GeneratedQuestions(answers=7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": ((4, 10), (144, 5))}, "one holdout"),
        ({"groups": ((0, 10), (144, 5), (144, 5))}, "different repetitions"),
        ({"primary": "accuracy_above_holdout/0x"}, "primary's condition"),
        ({"primary": "accuracy/36x"}, "primary's condition"),
        ({"primary": "accuracy_of_half_the_holdout/4x"}, r"primary's condition .*\['0x'\]"),
        ({"primary": "loss/144x"}, "primary must be"),
    ],
)
def test_bad_config_is_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        contamination(**changes)
    first, *by_gin = str(error.value).splitlines()
    assert first.startswith("bc: ") and all("In call to" in line for line in by_gin)


def test_bad_questions_are_one_clear_line(make_world):
    for source, message in (
        (
            Given(question("q", "A", " b", " c"), question("q", "D", " e", " f")),
            "question q is a duplicate of",
        ),
        (
            Given(question("p", "A", " b", " c"), question("q", "A", " c", " b")),
            "question q is a duplicate of",
        ),
        (GeneratedQuestions(subject_syllables=1), "raise subject_syllables"),
    ):
        experiment = contamination(questions=source, groups=((0, 100), (144, 1)))
        with pytest.raises(ValueError, match=message) as error:
            list(experiment.intervene(make_world(experiment)))
        assert str(error.value).startswith("bc: ")
