"""Every format against texts written out by hand, for records as the hub and as TFDS have them."""

import pytest

from ttoaa.benchmarks import formats
from ttoaa.benchmarks.formats import BENCHMARKS, format_question

CORK = ("Question: Which of these floats?\nAnswer:", (" a stone", " a cork", " a key"), 1)
BREAD = ("Question: Where is bread baked?\nAnswer:", (" shed", " oven", " oven mill"), 1)
FLOATS = ("Cork -- Cork is bark.\nQuestion: does cork float?\nAnswer:", (" yes", " no"), 0)
ICE = ("Question: Ice that gets warm\nAnswer:", (" melts", " burns", " grows", " sings"), 0)
CUP = ("Goal: Dry a cup\nAnswer:", (" wipe it", " fill it"), 1)
OVEN = ("Baking: A man stands. He waits. Then he", (" bakes.", " melts in water."), 1)
HEAT = (
    "Food: How to bake. Heat the oven. Wait for it. then eat.",
    (" Eat. Share it.", "  Burn it."),
    0,
)
BONE = ("Question: Which bone\nis longest?\nAnswer:", (" femur", " skull"), 0)
KAI = ("Question: Kai slept. How is Kai?\nAnswer:", (" rested", " wet", " tall"), 2)

NUMBERED = {"text": ["a stone", "a cork", "a key"], "label": ["1", "2", "3"]}
LETTERED = {"text": ["shed", "oven", "oven mill"], "label": ["A", "B", "C"]}
FOUR = {"text": ["melts", "burns", "grows", "sings"], "label": ["A", "B", "C", "D"]}
BOOK = {"stem": "Ice that gets warm", "choice_A": "melts", "choice_B": "burns",
        "choice_C": "grows", "choice_D": "sings"}  # fmt: skip
ASKED = {"question": "Which of these floats?"}
COSE = {"question": "Where is bread baked?", "choices": ["shed", "oven", "oven mill"]}
PASSAGE = {"passage": "Cork -- Cork is bark.", "question": "does cork float"}
GOAL = {"goal": "Dry a cup", "sol1": "wipe it", "sol2": "fill it"}
SWAG = {"activity_label": "Baking", "endings": ["bakes.", "melts [step] in water."]}
FOOD = {"activity_label": "Food", "endings": ["Eat. [title] Share it.", "[step] Burn it."]}
HOW = "[header] How to bake [title] Heat the oven. [title] Wait for it. then eat."
MEN = {"context": "A man stands. He waits. then HE", "source_id": "activitynet~1"}
SUBJECT = {"question": " Which bone\nis longest? ", "choices": ["femur", "skull"],
           "subject": "human_aging"}  # fmt: skip
SOCIAL = {"context": "Kai slept.", "question": "How is Kai?", "answerA": "rested",
          "answerB": "wet", "answerC": "tall"}  # fmt: skip
FELL = {"sentence": "The cup fell as the _ was wet.", "option1": "cup", "option2": "shelf"}

CASES = [
    ("arc_easy", {**ASKED, "choices": NUMBERED, "answerKey": "2"}, CORK),
    ("arc_challenge", {**ASKED, "choices": {**NUMBERED, "label": [0, 1, 2]}, "answerKey": 1}, CORK),
    ("boolq", {**PASSAGE, "label": 1}, FLOATS),  # SuperGLUE's, on the hub and in TFDS
    ("boolq", {**PASSAGE, "answer": True}, FLOATS),
    ("boolq", {**PASSAGE, "answer": False}, (*FLOATS[:2], 1)),
    ("csqa", {"question": COSE["question"], "choices": LETTERED, "answerKey": "B"}, BREAD),
    ("csqa", {**COSE, "answer": "oven"}, BREAD),
    ("hellaswag", {**SWAG, "ctx_a": "A man stands. He waits.", "ctx_b": "then HE", "label": "1"},
     OVEN),
    ("hellaswag", {**SWAG, **MEN, "label": 1}, OVEN),
    ("hellaswag", {**FOOD, "ctx_a": HOW, "ctx_b": "", "label": "0"}, HEAT),
    ("hellaswag", {**FOOD, "context": HOW, "source_id": "wikihow~1", "label": 0}, HEAT),
    ("hellaswag", {**SWAG, **MEN, "context": "he", "label": 1}, ("Baking: He", *OVEN[1:])),
    ("mmlu", {**SUBJECT, "answer": 0}, BONE),
    ("openbookqa", {"question_stem": BOOK["stem"], "choices": FOUR, "answerKey": "A "}, ICE),
    ("openbookqa", {"question": BOOK, "answerKey": 0}, ICE),
    ("piqa", {**GOAL, "label": 1}, CUP),
    ("socialiqa", {**SOCIAL, "label": "3"}, KAI),
]  # fmt: skip


@pytest.mark.parametrize(("benchmark", "record", "expected"), CASES)
def test_a_record_is_the_text_that_it_should_be(benchmark, record, expected):
    context, continuations, label = expected
    made = format_question(benchmark, record, 7)
    assert made.contexts == (context,) * len(continuations)
    assert (made.continuations, made.label) == (continuations, label)
    kind = "mmlu_human_aging" if benchmark == "mmlu" else benchmark
    assert (made.id, made.benchmark) == (f"{kind}-7", kind)
    assert made.unconditional == (None if benchmark == "boolq" else "Answer:")


@pytest.mark.parametrize("answer", [{"answer": "2"}, {"label": 1}])
def test_winogrande_is_scored_after_its_blank(answer):
    made = format_question("winogrande", {**FELL, **answer}, 0)
    assert made.contexts == ("The cup fell as the cup", "The cup fell as the shelf")
    assert made.continuations == (" was wet.", " was wet.")
    assert (made.label, made.unconditional) == (1, None)


def test_every_benchmark_has_a_case():
    assert {name for name, _, _ in CASES} | {"winogrande"} == set(BENCHMARKS)


TELLING = {"ctx_a", "question_stem"}


def without(mapping, name):
    return {key: value for key, value in mapping.items() if key != name}


def texts_of(record):
    """The names of the fields that hold text, or lists of it, also inside others."""
    for name, value in record.items():
        if isinstance(value, dict):
            yield from ((name, *inner) for inner in texts_of(value) if inner != ("label",))
        elif isinstance(value, list) or (name not in ("label", "answer", "answerKey", "ctx_b")):
            yield (name,)


def changed(record, path, change):
    first, *rest = path
    if rest:
        return {**record, first: changed(record[first], rest, change)}
    value = record[first]
    if change == "none at all":
        return without(record, first)
    new = {"null": None, "empty": "", "blank": " "}[change]
    return {**record, first: [*value[:-1], new] if isinstance(value, list) else new}


@pytest.mark.parametrize("change", ["none at all", "null", "empty", "blank"])
@pytest.mark.parametrize(
    ("benchmark", "record"),
    [(name, record) for name, record, _ in CASES] + [("winogrande", {**FELL, "label": 1})],
)
def test_no_field_is_missing_without_an_error(benchmark, record, change):
    paths = list(texts_of(record))
    assert len(paths) >= 2
    for path in paths:
        with pytest.raises(ValueError, match=f"^record 3 of {benchmark} ") as error:
            format_question(benchmark, changed(record, path, change), 3)
        assert "\n" not in str(error.value)
        # Without the field that tells the hub's records from TFDS's, one of TFDS's is missed.
        assert (change == "none at all" and path[-1] in TELLING) or path[-1] in str(error.value)


@pytest.mark.parametrize(
    ("benchmark", "record", "message"),
    [
        ("piqa", {**GOAL, "label": None}, "'label' must be a whole number, not None"),
        ("piqa", {**GOAL, "label": 0.5}, "'label' must be a whole number, not 0.5"),
        ("piqa", {**GOAL, "label": -1}, "piqa-3 has 2 options and label -1"),
        ("piqa", GOAL, "record 3 of piqa has no 'label'"),
        ("boolq", {**PASSAGE, "label": -1}, "label -1"),
        ("boolq", {**PASSAGE, "answer": "maybe"}, "'answer' must be a whole number, not 'maybe'"),
        ("winogrande", {**FELL, "answer": ""}, "'answer' must be a whole number, not ''"),
        ("winogrande", {**FELL, "sentence": "No.", "label": 0}, "must have a blank"),
        ("csqa", {**COSE, "answer": "lake"}, "csqa-3 has 3 options and label -1"),
        ("arc_easy", {**ASKED, "choices": NUMBERED, "answerKey": "9"}, "label -1"),
        ("arc_easy", {**ASKED, "choices": ["a"], "answerKey": "A"}, "3 of arc_easy is malformed"),
        ("mmlu", {**SUBJECT, "choices": "ab", "answer": 0}, "'choices' must be a list of texts"),
        ("mmlu", {**SUBJECT, "answer": 2}, "mmlu_human_aging-3 has 2 options and label 2"),
        ("race", {}, "no format is named 'race': use one of arc_easy"),
    ],
)
def test_bad_records_are_one_clear_line(benchmark, record, message):
    with pytest.raises(ValueError, match=message) as error:
        format_question(benchmark, record, 3)
    assert "\n" not in str(error.value)


def test_outcomes_are_those_that_olmes_reports():
    reported = {name: formats.reported_outcome(name) for name in BENCHMARKS}
    assert {name for name, value in reported.items() if value == "acc_mutual_info"} == {
        "arc_challenge", "csqa", "openbookqa"
    }  # fmt: skip
    assert {name for name, value in reported.items() if value == "acc"} == {"boolq", "winogrande"}
    assert {reported[name] for name in ("arc_easy", "hellaswag", "mmlu", "piqa", "socialiqa")} == {
        "acc_norm"
    }
    for name in ("mmlu_human_aging", "arc-easy", "social_i_qa"):
        assert formats.reported_outcome(name) == "acc_norm"
    with pytest.raises(ValueError, match="no format is named 'capital'"):
        formats.reported_outcome("capital")
    # Who is scored by PMI says after what.
    assert all(e.unconditional for e in BENCHMARKS.values() if e.outcome == "acc_mutual_info")
