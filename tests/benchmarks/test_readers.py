"""Records and requests from JSON lines, plain and gzipped."""

import gzip
import json
import subprocess
import sys

import numpy as np
import pytest

from ttoaa.benchmarks.readers import RecordQuestions, RequestQuestions

RNG = np.random.default_rng(0)
CUP = {"goal": "Dry a cup", "sol1": "wipe it", "sol2": "fill it", "label": 0}
ICE = {"goal": "Melt ice", "sol1": "cool it", "sol2": "warm it", "label": 1}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write(path, content):
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return str(path)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_records_are_numbered_over_all_files(tmp_path, name):
    first = write(tmp_path / name, lines(CUP) + b"\n  \n" + lines(ICE))
    second = write(tmp_path / "b.jsonl", lines(CUP).rstrip())
    made = RecordQuestions([first, second], "piqa").questions(3, RNG)
    assert [q.id for q in made] == ["piqa-0", "piqa-1", "piqa-2"]
    assert [q.texts[q.label] for q in made] == [
        "Goal: Dry a cup\nAnswer: wipe it",
        "Goal: Melt ice\nAnswer: warm it",
        "Goal: Dry a cup\nAnswer: wipe it",
    ]
    assert len(RecordQuestions([first], "piqa", max_characters=30).questions(1, RNG)) == 1
    with pytest.raises(ValueError, match="4 questions are needed, but RecordQuestions has only 3"):
        RecordQuestions([first, second], "piqa").questions(4, RNG)


def test_shots_are_solved_before_each_record_and_count_as_characters(tmp_path):
    asked = write(tmp_path / "a.jsonl", lines(ICE))
    shots = write(tmp_path / "shots.jsonl", lines(CUP, {**CUP, "label": 1}))
    (made,) = RecordQuestions([asked], "piqa", shots).questions(1, RNG)
    solved = "Goal: Dry a cup\nAnswer: wipe it\n\nGoal: Dry a cup\nAnswer: fill it\n\n"
    assert set(made.contexts) == {solved + "Goal: Melt ice\nAnswer:"}
    with pytest.raises(ValueError, match="has only 0"):
        RecordQuestions([asked], "piqa", shots, max_characters=50).questions(1, RNG)
    with pytest.raises(ValueError, match="piqa-0 is itself among the shots"):
        RecordQuestions([asked], "piqa", asked).questions(1, RNG)
    with pytest.raises(ValueError, match="shots: there is no file"):
        RecordQuestions([asked], "piqa", str(tmp_path / "none")).questions(1, RNG)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lines(CUP) + b"{'a': 1}\n", r"a\.jsonl:2 is damaged: Expecting"),
        (lines(CUP) + b"[1, 2]\n", r"a\.jsonl:2 must hold an object, not"),
        (lines(CUP) + b'{"goal": "\xff"}\n', r"a\.jsonl:2 is damaged: not UTF-8"),
        (lines(CUP, {**CUP, "goal": None}), r"a\.jsonl:2: record 1 of piqa is malformed: 'goal'"),
        (lines({**CUP, "label": 2}), r"a\.jsonl:1: question piqa-0 has 2 options and label 2"),
    ],
)
def test_a_bad_line_is_named(tmp_path, content, message):
    path = write(tmp_path / "a.jsonl", content)
    with pytest.raises(ValueError, match=message) as error:
        RecordQuestions([path], "piqa").questions(1, RNG)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", [lambda p: RecordQuestions(p, "piqa"), RequestQuestions])
def test_a_bad_file_is_named(tmp_path, source):
    whole = gzip.compress(lines(*[CUP] * 50))
    for name, content in (("cut.jsonl.gz", whole[:-20]), ("plain.jsonl.gz", lines(CUP))):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is not a complete gzip file|{name}:1 has no"):
            source([str(tmp_path / name)]).questions(1, RNG)
    for paths in ("a.jsonl", []):
        with pytest.raises(ValueError, match="paths must be a list of texts"):
            source(paths).questions(1, RNG)


def test_a_benchmark_is_checked_before_anything_is_read():
    with pytest.raises(ValueError, match="no format is named 'piq'"):
        RecordQuestions(["none"], "piq")


def request(doc, option, label, context, continuation, task="t"):
    return {
        "task_name": task,
        "doc_id": doc,
        "idx": option,
        "label": label,
        "request": {"context": context, "continuation": continuation},
    }


TWO = [request(4, k, 1, "Q: x\nA:", option) for k, option in enumerate((" a", " b"))]
HALF = [request(1_000_004, k, 1, "A:", option) for k, option in enumerate((" a", " b"))]
OTHER = [request(5, k, 0, "Q: y\nA:", option) for k, option in enumerate((" c", " d", " e"))]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_requests_in_any_order_are_questions(tmp_path, name):
    path = write(tmp_path / name, lines(HALF[1], TWO[1], HALF[0], TWO[0]))
    (made,) = RequestQuestions([path]).questions(1, RNG)
    assert (made.id, made.benchmark, made.label, made.unconditional) == ("t-4", "t", 1, "A:")
    assert (made.contexts, made.continuations) == (("Q: x\nA:",) * 2, (" a", " b"))


def test_requests_without_an_unconditional_half_have_none(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(*OTHER, *TWO))
    made = RequestQuestions([path]).questions(2, RNG)
    assert [(q.id, q.label, len(q.contexts)) for q in made] == [("t-5", 0, 3), ("t-4", 1, 2)]
    assert {q.unconditional for q in made} == {None}


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([TWO[0]], "t-4 has 1 options and label 1"),
        ([TWO[1]], r"the choices of t 4 are \[1\]"),
        ([*TWO, TWO[0]], r"the choices of t 4 are \[0, 0, 1\]"),
        ([TWO[0], {**TWO[1], "label": 0}], r"with labels \[1, 0\]"),
        ([*TWO, *HALF, *OTHER], "some questions have unconditional requests, others have none"),
        ([*HALF], "some questions have unconditional requests"),
        ([*TWO, HALF[0], request(1_000_004, 1, 1, "B:", " b")], "must share one context"),
        (
            [*TWO, HALF[0], request(1_000_004, 1, 1, "A:", " c")],
            "context and have the same continuations as the choices",
        ),
        ([{**TWO[0], "request": {"context": "Q"}}], r"a\.jsonl:1 has no 'continuation'"),
        (
            [request(4, 0, 0, None, " a")],
            r"a\.jsonl:1 is not a .* request: 'context' must be a text",
        ),
        ([request(4, 0, 0, "Q", None)], "'continuation' must be a text and not empty, not None"),
        ([request("x", 0, 0, "Q", " a")], "'doc_id' must be a whole number, not 'x'"),
    ],
)
def test_requests_that_do_not_fit_are_one_clear_line(tmp_path, records, message):
    path = write(tmp_path / "a.jsonl", lines(*records))
    with pytest.raises(ValueError, match=message) as error:
        RequestQuestions([path]).questions(1, RNG)
    assert "\n" not in str(error.value)


def test_files_need_no_tensorflow(tmp_path):
    path = write(tmp_path / "a.jsonl", lines(CUP))
    code = (
        "import sys; from ttoaa.benchmarks import RecordQuestions\n"
        f"assert len(RecordQuestions([{path!r}], 'piqa').questions(1, None)) == 1\n"
        "assert not {'tensorflow', 'seqio', 'jax'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
