"""A run that begins from another one, through the command; the same runs filter rows and trace."""

import shutil

import numpy as np
import optax
import pytest
import studies
from training.test_throughput import traced

from ttoaa import config, train, training_job
from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.json_io import read_json
from ttoaa.training.checkpoint_io import read_checkpoint
from ttoaa.workdir import Workdir

GIN = """
Geometry.steps = {steps}
Training.checkpoint_every = 4
Training.validate_every = 4
ConstantLinear.warmup = 2
planted/Planted.probe_steps = ()
Training.repetition_filter = @RepetitionFilter()
RepetitionFilter.max_count = 3
RepetitionFilter.min_period = 1
RepetitionFilter.max_period = 2
"""
BEGIN = """
Study.init_from = @InitFrom()
InitFrom.folder = '{folder}'
InitFrom.step = 4
"""


@pytest.fixture(scope="module")
def make(corpus_prepare, corpus_folder, tmp_path_factory):
    """Trains the control run of the tiny study; gives its folder."""
    root = tmp_path_factory.mktemp("begin")

    def run(name, text, *flags):
        gin = studies.write_gin(root / name, corpus_prepare.source.paths)
        gin.write_text(gin.read_text() + text)
        (root / name / "corpus").symlink_to(corpus_folder)
        code = studies.main(train, root / name, f"--gin_file={gin}", "--run=control", *flags)
        assert code == 0, code
        return root / name / "control"

    return run


@pytest.fixture(scope="module")
def source(make):
    return make("source", GIN.format(steps=8), "--profile_steps=2:4")


@pytest.fixture(scope="module")
def begun(make, source):
    """Runs begun from the source's step 4, by what they take of it."""
    text = BEGIN.format(folder=source)
    return {
        "params": make("params", GIN.format(steps=8) + text),
        "optimizer": make("optimizer", GIN.format(steps=8) + text + "InitFrom.optimizer = True\n"),
        "continue": make(
            "continue",
            GIN.format(steps=12)
            + text
            + "InitFrom.optimizer = True\nInitFrom.continue_step = True\n",
        ),
    }


def of_steps(run, name):
    return {x["step"]: x[name] for x in studies.records(run)["metrics"] if name in x}


def adam_count(run, step):
    study = config.load([run / "config.gin"])[0]
    like = training_job.compiled_step(study).state["opt"]
    opt = read_checkpoint(run / "checkpoints", step, opt=like)["opt"]
    return int(optax.tree_utils.tree_get(opt, "ScaleByAdamState").count)


@pytest.mark.parametrize(("name", "count"), [("params", 8), ("optimizer", 12)])
def test_a_new_run_starts_at_step_0_with_the_sources_weights(source, begun, name, count):
    run = begun[name]
    assert of_steps(run, "validation_loss")[0] == of_steps(source, "validation_loss")[4]
    assert of_steps(run, "learning_rate") == of_steps(source, "learning_rate")
    assert [line["step"] for line in studies.records(run)["arms"]] == list(range(1, 9))
    assert adam_count(run, 8) == count
    first = read_json(run / "provenance.json")["source"]
    assert first["step"] == 4 and first["optimizer"] == (name == "optimizer")


def test_moments_make_another_run(begun):
    one, other = (of_steps(begun[name], "loss") for name in ("params", "optimizer"))
    assert one[1] == other[1] and one[2] != other[2]


def test_a_longer_run_goes_on_with_the_steps_after(source, begun):
    """To the bit those of the old run up to its decay, which comes later now."""
    run = begun["continue"]
    ours, theirs = studies.records(run), studies.records(source)
    assert [line["step"] for line in ours["arms"]] == list(range(5, 13))
    assert of_steps(run, "validation_loss")[4] == of_steps(source, "validation_loss")[4]
    for step in (5, 6, 7):
        assert of_steps(run, "loss")[step] == of_steps(source, "loss")[step]
    assert [x for x in ours["arms"] if x["step"] < 8] == [
        x for x in theirs["arms"] if 4 < x["step"] < 8
    ]
    assert adam_count(run, 12) == 12
    record = read_json(run / "provenance.json")
    assert record["source"]["differs"].keys() == {"geometry", "probes"}


def test_it_does_not_look_at_its_source_again(begun, source, tmp_path, capsys):
    away = shutil.move(source / "checkpoints", tmp_path / "away")
    try:
        assert studies.main(train, begun["params"].parent, "--run=control") == 0
    finally:
        shutil.move(away, source / "checkpoints")
    assert "is finished already" in capsys.readouterr().out


def repeats(row):
    """Whether one or two tokens stand three times in a row, by looking."""
    return any(
        list(row[i : i + n]) * 3 == list(row[i : i + 3 * n])
        for n in (1, 2)
        for i in range(len(row) - 3 * n + 1)
    )


def test_rows_that_repeat_are_not_trained_on(source):
    study, workdir = config.load([source / "config.gin"])[0], Workdir(source.parent)
    corpus = Corpus.open(workdir.corpus)
    order = Order(0, corpus.num_windows("train", study.geometry.length))
    rows = [batch["tokens"] for batch in batches(corpus, order, study.geometry)]
    kept = [sum(not repeats(row) for row in tokens) for tokens in rows]
    assert 0 < sum(kept) < 8 * 4
    targets = [sum(n for _, n in x["arms"].values()) for x in studies.records(source)["arms"]]
    np.testing.assert_array_equal(targets, np.array(kept) * (study.geometry.length - 1))


def test_the_steps_that_were_asked_for_are_traced(source, begun):
    assert traced(source / "profile") == [2, 3]
    assert not (begun["params"] / "profile").exists()
