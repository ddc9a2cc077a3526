"""TFDS's own builders over local files, read as seqio Tasks: all but the download."""

import json
import subprocess
import sys

import numpy as np
import pytest
from benchmarks import built

from ttoaa.benchmarks import formats
from ttoaa.benchmarks.tasks import TASKS, TaskQuestions, register_tasks

RNG = np.random.default_rng(0)
LEAVES = ("Question: Which of these floats on water?\nAnswer:", (" a stone", " a cork", " a key"))
BREAD = "Question: Where is bread baked?\nAnswer:"
CORK = "Corks -- Corks are made of bark, and float.\nQuestion: do corks float?\nAnswer:"
SHELF = "The cup fell off the shelf because the "
SWAG = (" bakes a loaf.", " flies off.", " sinks in water.", " melts.")
HE = "Baking: A man stands at an oven. He"
STEPS = "Food: How to bake. Heat the oven. Wait for it."


def same(context, continuations):
    return (context,) * len(continuations), continuations


EXPECTED = {
    "arc_easy": [(*same(*LEAVES), 1)],
    "arc_challenge": [(*same(*LEAVES), 1)],
    "boolq": [(*same(CORK, (" yes", " no")), 0)],
    "csqa": [(*same(BREAD, (" shed", " oven", " field", " mill", " lake")), 1)],
    "hellaswag": [(*same(context, SWAG), 0) for context in (HE, HE, STEPS, STEPS)],
    "openbookqa": [
        (*same("Question: Ice that gets warm\nAnswer:",
               (" melts", " burns", " grows", " sings")), 0),
    ],
    "piqa": [(*same("Goal: Dry a cup\nAnswer:", (" wipe it", " fill it")), 1)],
    "winogrande": [((SHELF + "cup", SHELF + "shelf"), (" was slippery.",) * 2, 1)],
}  # fmt: skip


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    built.originals(folder / "raw")
    for name in TASKS:
        dataset = formats.BENCHMARKS[name].tfds.split(":")[0]
        built.build(dataset, folder / "raw", folder / "built")
    return str(folder / "built")


@pytest.mark.parametrize("benchmark", TASKS)
def test_a_tfds_dataset_is_read_as_a_seqio_task(data_dir, benchmark):
    made = TaskQuestions(benchmark, data_dir=data_dir).questions(1, RNG)
    found = sorted((q.contexts, q.continuations, q.label) for q in made)
    assert found == sorted(EXPECTED[benchmark])
    assert [q.id for q in made] == [f"{benchmark}-{k}" for k in range(len(made))]
    unconditional = formats.BENCHMARKS[benchmark].unconditional
    assert {(q.benchmark, q.unconditional) for q in made} == {(benchmark, unconditional)}


def test_every_benchmark_that_tfds_has_is_expected_here():
    assert set(EXPECTED) == set(TASKS) == set(formats.BENCHMARKS) - {"mmlu", "socialiqa"}


def test_shots_are_lines_of_json(data_dir, tmp_path):
    shot = {"goal": "Melt ice", "sol1": "cool it", "sol2": "warm it", "label": 1}
    (tmp_path / "shots.jsonl").write_text(json.dumps(shot))
    shots = str(tmp_path / "shots.jsonl")
    (made,) = TaskQuestions("piqa", data_dir=data_dir, shots=shots).questions(1, RNG)
    context = "Goal: Melt ice\nAnswer: warm it\n\nGoal: Dry a cup\nAnswer:"
    assert made.contexts == (context, context)
    with pytest.raises(ValueError, match="1 questions are needed, but TaskQuestions has only 0"):
        TaskQuestions("piqa", None, data_dir, shots, len(context)).questions(1, RNG)
    # The Task of the name is made anew: the shots of the call before are gone.
    (made,) = TaskQuestions("piqa", "train", data_dir).questions(1, RNG)
    assert made.contexts[0] == "Goal: Dry a cup\nAnswer:"


def test_a_task_is_one_example_for_each_choice(data_dir):
    import seqio

    assert register_tasks(["arc_easy"], data_dir) == ["olmes_rc_arc_easy"]
    task = seqio.get_mixture_or_task("olmes_rc_arc_easy")
    examples = list(task.get_dataset(None, "test", shuffle=False).as_numpy_iterator())
    assert [example["targets"] for example in examples] == [b" a stone", b" a cork", b" a key"]
    assert {example["inputs"] for example in examples} == {LEAVES[0].encode()}
    assert {example["question"] for example in examples} == {b"arc_easy-0"}
    assert [(e["option"], e["label"]) for e in examples] == [(0, 1), (1, 1), (2, 1)]


def test_a_bad_record_in_tfds_is_one_clear_line(tmp_path, monkeypatch):
    monkeypatch.setattr(built, "PIQA", {**built.PIQA, "goal": " "})
    built.originals(tmp_path / "raw")
    built.build("piqa", tmp_path / "raw", tmp_path / "built")
    with pytest.raises(ValueError, match="record 0 of piqa is malformed: 'goal'") as error:
        TaskQuestions("piqa", data_dir=str(tmp_path / "built")).questions(1, RNG)
    assert "\n" not in str(error.value)


def test_other_errors_of_tensorflow_stay_what_they_are(data_dir, monkeypatch):
    import tensorflow as tf

    def broken(*_):
        raise RuntimeError("no such thing")

    monkeypatch.setattr(formats, "format_question", broken)
    with pytest.raises(tf.errors.OpError, match="no such thing"):
        TaskQuestions("piqa", data_dir=data_dir).questions(1, RNG)


@pytest.mark.parametrize(
    ("benchmark", "message"),
    [("race", "no format is named 'race'"), ("mmlu", "TFDS has no mmlu: read its JSON lines")],
)
def test_a_benchmark_is_checked_where_it_is_named(benchmark, message):
    for make in (TaskQuestions, lambda name: register_tasks([name])):
        with pytest.raises(ValueError, match=message):
            make(benchmark)


def test_naming_one_needs_no_tensorflow():
    """In a process of its own, as others here import it."""
    code = (
        "import sys; from ttoaa.benchmarks.tasks import TaskQuestions; TaskQuestions('piqa')\n"
        "assert not {'tensorflow', 'seqio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
