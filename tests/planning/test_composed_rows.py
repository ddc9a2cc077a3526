"""Edits in rows that the repetition filter masks, against rows composed by the audit's code."""

import dataclasses

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import training_order
from ttoaa.data.repetition_filter import RepetitionFilter
from ttoaa.identity import describe
from ttoaa.planning.audit.reference_reader import PlainReader
from ttoaa.planning.composed_rows import masked_edits
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Explicit
from ttoaa.study_handle import StudyHandle

AFTER = RepetitionFilter(1, 3, 3)
BEFORE = dataclasses.replace(AFTER, when="before_edits")
DULL = Item("dull", "dull", 6, np.array([4, 5] * 5))
"""It repeats itself, so it masks its row wherever it is."""
SLOT = Item("slot", "slot", 40, slot=30)


def study_with(tiny_study, rule, *experiments):
    training = dataclasses.replace(tiny_study.training, repetition_filter=rule)
    return dataclasses.replace(tiny_study, training=training, experiments=experiments)


def repeats(row, rule):
    """Whether some pattern stands max_count times in a row, spelled out."""
    times, periods = rule.max_count, range(rule.min_period, rule.max_period + 1)
    return any(
        row[i : i + n * times] == row[i : i + n] * times
        for n in periods
        for i in range(len(row) - n * times + 1)
    )


def by_hand(workdir, plan, rule):
    """{arm: edits} in rows in which some pattern stands max_count times."""
    reader = PlainReader(workdir.corpus, plan.folder)
    corpus = Corpus.open(workdir.corpus)
    order = training_order(corpus, 0, 32)
    masked = set()
    for position in range(320):
        row = reader.row(position)[0]
        if rule.when == "before_edits":
            row = corpus.windows("train", order.windows(np.array([position])), 32)[0].tolist()
        if repeats(row, rule):
            masked.add(position)
    counts = {}
    columns = (plan.columns[name].tolist() for name in ("position", "arm", "kind"))
    for position, arm, kind in zip(*columns, strict=True):
        if position in masked and kind != 2:
            name = plan.arms[arm - 1]["name"]
            counts[name] = counts.get(name, 0) + 1
    return counts


@pytest.mark.parametrize("rule", [AFTER, BEFORE])
def test_edits_in_masked_rows_are_named_and_counted(tiny_study, make_workdir, rule):
    experiments = (Planted("planted", items=30), Given("given", items=(DULL, SLOT)))
    workdir = make_workdir()
    plan, _ = StudyHandle(study_with(tiny_study, rule, *experiments), workdir).make_plan()
    corpus = Corpus.open(workdir.corpus)
    found = masked_edits(plan, corpus, training_order(corpus, 0, 32), rule)
    expected = by_hand(workdir, plan, rule)
    assert found.edits == expected and found.checked == found.rows
    lines = plan.meta["warnings"]
    assert len(lines) == len(expected)
    summary = (plan.folder / "summary.txt").read_text()
    assert summary.endswith("".join(f"warning: {line}\n" for line in lines))
    if rule is AFTER:
        assert found.edits["given/dull"] == 6
        assert lines[0].startswith("given/dull: 6 edits, such as one of item 'dull', lie in rows")
    assert "given/slot" not in found.edits


def test_what_is_edited_over_is_judged_as_it_is_trained_on(tiny_study, make_workdir):
    """A row that the corpus would have had masked is trained on once an item covers it."""
    workdir = make_workdir()
    corpus = Corpus.open(workdir.corpus)
    order = training_order(corpus, 0, 32)
    row = corpus.windows("train", order.windows(np.arange(320)), 32)
    (first, *_) = np.flatnonzero(BEFORE.repeats(row))
    whole = Item("whole", "c", 1, np.arange(1, 33), placement=Explicit([int(first)]))
    study = study_with(tiny_study, AFTER, Given("given", items=(whole,)))
    assert StudyHandle(study, workdir).make_plan()[0].meta["warnings"] == []
    study = study_with(tiny_study, BEFORE, Given("given", items=(whole,)))
    (line,) = (
        StudyHandle(study, dataclasses.replace(make_workdir(), seed=0))
        .make_plan()[0]
        .meta["warnings"]
    )
    assert line.startswith("given/c: 1 edits, such as one of item 'whole', lie in rows that the")


def test_they_can_be_refused(tiny_study, make_workdir):
    rule = dataclasses.replace(AFTER, edits="refused")
    workdir = make_workdir()
    with pytest.raises(ValueError, match=r"given/dull: 6 edits.*RepetitionFilter.edits to 'named'"):
        StudyHandle(
            study_with(tiny_study, rule, Given("given", items=(DULL,))), workdir
        ).make_plan()
    assert [path.name for path in workdir.root.iterdir()] == ["corpus"]
    assert describe(rule) == describe(AFTER)  # a run's identity does not hang on it
    with pytest.raises(ValueError, match=r"edits is 'named' or 'refused', not 'x'"):
        dataclasses.replace(AFTER, edits="x")


def test_of_very_many_rows_a_sample_is_looked_at(tiny_study, make_workdir):
    workdir = make_workdir()
    plan, _ = StudyHandle(
        study_with(tiny_study, None, Planted("planted", items=30)), workdir
    ).make_plan()
    corpus = Corpus.open(workdir.corpus)
    order = training_order(corpus, 0, 32)
    rule = RepetitionFilter(1, 1, 2)
    every = masked_edits(plan, corpus, order, rule)
    some = masked_edits(plan, corpus, order, rule, most=20 * 32)
    assert some.checked == 20 < some.rows == every.rows
    assert 0 < sum(some.edits.values()) < sum(every.edits.values())
    assert "among 20 rows with edits (a sample of" in some.lines(rule.when)[0]
    refused = dataclasses.replace(rule, edits="refused")
    assert masked_edits(plan, corpus, order, refused, most=20 * 32) == every
