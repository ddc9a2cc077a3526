"""The guide's example loads and gives items; its table of formats is that of the code."""

import json
import pathlib
import re

from ttoaa import config
from ttoaa.benchmarks.formats import BENCHMARKS
from ttoaa.benchmarks.tasks import TaskQuestions
from ttoaa.experiments.contamination import OLMES
from ttoaa.scoring.multiple_choice import NORMALISATIONS

ROOT = pathlib.Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
EXAMPLE, SHARED = re.findall(r"^```gin\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)


def study(folder, example):
    """The study of a config; its files are in `folder`."""
    example = example.replace("quickstart.gin", str(ROOT / "configs/quickstart.gin"))
    example = example.replace("arc_challenge_test.jsonl", str(folder / "arc.jsonl"))
    (folder / "arc.gin").write_text(example)
    return config.load([folder / "arc.gin"])[0]


def test_the_example_is_a_study_whose_questions_are_read(plan_of, tmp_path):
    made = study(tmp_path, EXAMPLE + "Contamination.groups = ((0, 3), (4, 2), (36, 1))")
    assert [e.name for e in made.experiments][:2] == ["contamination", "canaries"]
    experiment = made.experiments[0]
    records = [
        {"question": f"{n} and 1 is", "answerKey": "B",
         "choices": {"label": ["A", "B"], "text": [str(n), str(n + 1)]}}
        for n in range(6)
    ]  # fmt: skip
    (tmp_path / "arc.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    items = plan_of([experiment]).items(experiment.name)
    assert sorted(items["id"]) == [f"arc_challenge-{n}" for n in range(6)]
    assert "Question: 3 and 1 is\nAnswer: 4" in set(items["text"])
    assert set(items["unconditional"]) == {"Answer:"} and experiment.normalisation == "olmes"


def test_two_experiments_share_a_file_without_a_question_in_common(plan_of, tmp_path):
    fewer = """Contamination.groups = ((0, 4), (1, 2))
Contamination.primary = 'accuracy_above_holdout/1x'
"""
    both = study(tmp_path, EXAMPLE + SHARED + fewer)
    records = [
        {"question": f"{n} and 1 is", "answerKey": "A",
         "choices": {"label": ["A", "B"], "text": [str(n + 1), str(n)]}}
        for n in range(12)
    ]  # fmt: skip
    (tmp_path / "arc.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    names = ["contamination", "contamination-early"]
    assert [e.name for e in both.experiments][:2] == names
    plan = plan_of(both.experiments[:2])
    ids = [set(plan.items(name)["id"]) for name in names]
    assert list(map(len, ids)) == [6, 6] and not ids[0] & ids[1]


def test_from_tfds_it_is_what_the_guide_says(tmp_path):
    source, binding = re.findall(r"For TFDS use `(.*?)` with `(.*?)`", GUIDE)[0]
    example = re.sub(r"^(RecordQuestions\.|#).*\n", "", EXAMPLE, flags=re.MULTILINE)
    example = example.replace("@RecordQuestions()", source) + binding
    experiment = study(tmp_path, example).experiments[0]
    assert experiment.questions == TaskQuestions("arc_challenge")


def test_the_tables_are_those_of_the_code():
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(\w+)` \| (.*?) \|$", GUIDE, re.MULTILINE)
    assert {(name, outcome) for name, outcome, _ in rows} == {
        (name, entry.outcome) for name, entry in BENCHMARKS.items()
    }
    for name, _, where in rows:
        tfds = BENCHMARKS[name].tfds
        assert f"`{tfds.split(':')[0]}`" in where if tfds else where.startswith("no: JSON lines")
    named = re.findall(r"^\| `'(\w+)'` \|.*\| (?:`(\w+)` )?\|$", GUIDE, re.MULTILINE)
    outcomes = {name: each.outcome for name, each in NORMALISATIONS.items()}
    assert dict(named) == {**outcomes, OLMES: ""}
