"""Removal of families and of found texts from a small corpus, and what the outcomes say."""

import dataclasses

import numpy as np
import pandas as pd
import pytest
from fakes import SENTENCE, Given
from matplotlib.figure import Figure

from ttoaa.data.corpus import Corpus
from ttoaa.data.order import training_order
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.vocabulary import TrainBPE
from ttoaa.evaluation.trained_rows import TrainedRows
from ttoaa.experiments.context import ask_removals, make_worlds
from ttoaa.experiments.verbatim import Families, Verbatim, WithFamilies
from ttoaa.experiments.verbatim.experiment import group_texts
from ttoaa.planning.composed_rows import compose_rows
from ttoaa.planning.items import Item
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir

FAMILIES = Families(sizes=(0, 12), families=8, exact=5, characters=80)
PRIMARY = "log_likelihood_by_near_duplicates/12-vs-0"


def verbatim(**changes):
    fields = {"name": "verbatim", "primary": PRIMARY, "expected_sign": 1, "families": FAMILIES}
    fields |= {"prompt": 14, "continuation": 10, "most": 0, "unseen": 16}
    return Verbatim(**(fields | changes))


def scanning(**changes):
    """The experiment without families, of found texts alone."""
    fields = {"families": None, "most": 6, "fewest": 3, "least_copies": 2}
    fields |= {"primary": "completed/found-0+", "other_lengths": ((4, 4),)}
    return verbatim(**(fields | changes))


@pytest.fixture(scope="module")
def handle(tiny_study, tmp_path_factory):
    """A planned study on a corpus with families."""
    workdir = Workdir(tmp_path_factory.mktemp("verbatim"))
    rng = np.random.default_rng(5)
    lines = [" ".join(rng.choice(SENTENCE.split(), 12)) + f" {n}" for n in range(1600)]
    documents = ["\n".join(lines[first : first + 4]) for first in range(0, 1600, 4)]
    (workdir.root / "text.txt").write_text("\n%%\n".join(documents))
    text = TextFiles([str(workdir.root / "text.txt")], separator="\n%%\n")
    source = WithFamilies(text, FAMILIES, every=250)
    made = Prepare(source, TrainBPE(400, 32), reserve_fraction=0.4, shard_characters=40_000)
    prepare(made, workdir.corpus, progress=False)
    # Another experiment inserts a text that differs from a passage in two tokens.
    tokenizer = Corpus.open(workdir.corpus).tokenizer
    near = np.array(tokenizer.encode(FAMILIES.passages()[8].text)[:24], np.int32)
    near[[4, 14]] = tokenizer.reserved_ids[0]
    other = Given("other", items=(Item("near", "near", 3, near),))
    study = dataclasses.replace(
        tiny_study,
        prepare=made,
        geometry=dataclasses.replace(tiny_study.geometry, length=64, batch=4),
        model=dataclasses.replace(tiny_study.model, vocab_size=400),
        experiments=(verbatim(), other),
        validation_sequences=2,
    )
    handle = StudyHandle(study, workdir)
    handle.make_plan()
    return handle


@pytest.fixture(scope="module")
def bare(handle):
    """The world of an experiment before the reserve is dealt."""

    def world(experiment):
        args = 0, handle.config.geometry, handle.corpus, None
        return make_worlds([experiment], *args)["verbatim"]

    return world


class Model:
    """Scores by a function of the text; rows are those of the composed stream."""

    def __init__(self, handle, score):
        self.items, self.tokenizer = handle.plan.items("verbatim"), handle.corpus.tokenizer
        order = training_order(handle.corpus, 0, 64)
        everything = np.arange(handle.config.geometry.sequences)
        self.stream = compose_rows(handle.plan, handle.corpus, order, everything)
        self.score, self.step = score, 40
        self.edited_rows = TrainedRows(handle.plan, handle.corpus, order, 0).edited_rows

    def log_likelihood(self, requests):
        return [np.full(len(t) - start, self.score(t), np.float32) for t, start in requests]

    def greedy_matches(self, requests):
        return [np.full(len(t) - start, self.score(t) > -1) for t, start in requests]

    def rows(self, positions):
        return self.stream[positions]


def test_every_exact_copy_is_gone_and_near_duplicates_stay(handle):
    items = handle.plan.items("verbatim")
    removed = items[items["condition"].str.startswith("family") & (items["window"] < 0)]
    assert removed["condition"].value_counts().to_dict() == {"family-0": 8, "family-12": 8}
    assert removed["occurrences"].sum() > 5 and removed["group"].is_unique
    model = Model(handle, lambda tokens: -2.0)
    rows = [row.tobytes() for row in model.stream.astype(np.int64)]
    for tokens in removed["tokens"]:
        assert not any(np.asarray(tokens, np.int64).tobytes() in row for row in rows)
    table = verbatim().outcome(model)
    near = table[table["outcome"] == "completed"].groupby("condition")["near_edits"].sum()
    assert near["family-12"] >= 15 > 5 > near["family-0"] and near["unseen"] == 0


def test_near_duplicates_that_another_experiment_inserts_count(handle):
    models = [Model(handle, lambda tokens: -2.0) for _ in range(2)]
    models[1].edited_rows = np.empty(0, np.int64)
    tables = [verbatim().outcome(model).drop_duplicates("item") for model in models]
    every, of_corpus = (table.set_index("item")["near_edits"] for table in tables)
    assert every["family-12-0"] == of_corpus["family-12-0"] + 3
    # Rows that replace those of removed texts bring in some, too.
    assert (every >= of_corpus).all() and not every.filter(like="unseen").any()


def test_unseen_passages_are_in_neither_run(handle):
    items = handle.plan.items("verbatim")
    unseen = items[items["condition"] == "unseen"]
    assert len(unseen) == 16 and (unseen["repetitions"] == 0).all()
    texts = {text for _, text in FAMILIES.copies()}
    assert not any(text.startswith(found) for found in unseen["text"] for text in texts)


def estimates(handle, score, control=None):
    run, without = (verbatim().outcome(Model(handle, each)) for each in (score, control or score))
    return {(e.outcome, e.condition): e for e in verbatim().estimates(run, without)}


def noise(tokens):
    """A part of the score that differs by text."""
    return float(np.random.default_rng(int(np.sum(tokens))).normal(0, 0.1))


def test_a_model_that_remembers_by_near_duplicates_passes(handle):
    items = handle.plan.items("verbatim")
    near = {tuple(t) for t in items[items["condition"] == "family-12"]["tokens"] if t is not None}
    found = estimates(handle, lambda tokens: -2 + noise(tokens) + 1.5 * (tuple(tokens) in near))
    by = found["log_likelihood_by_near_duplicates", "12-vs-0"]
    assert by.difference == pytest.approx(1.5, abs=0.15) and by.difference_ci_low > 1
    assert found["completed_by_near_duplicates", "12-vs-0"].difference == 1
    # The run is no better than the control run, so nothing was removed from it.
    assert found["log_likelihood", "family-12"].difference == 0
    halves = found["log_likelihood_of_half_the_unseen", "unseen"]
    assert halves.difference == 0 and f"{halves.outcome}/unseen" == verbatim().placebo


@pytest.mark.parametrize("form", [-0.5, -6.0])
def test_a_model_that_treats_all_passages_alike_does_not_pass(handle, form):
    """It has learnt their form, or completes all of them, or has learnt nothing."""
    found = estimates(handle, lambda t: form + noise(t), control=lambda t: -3 + noise(t))
    by = found["log_likelihood_by_near_duplicates", "12-vs-0"]
    assert by.difference_ci_low < 0 < by.difference_ci_high
    above = found["log_likelihood_above_unseen", "family-12"]
    assert above.difference == pytest.approx(0, abs=1e-6)


def test_found_texts_are_those_that_the_model_completes(handle, bare):
    experiment = scanning()
    model = Model(handle, lambda tokens: -0.5 if np.sum(tokens) % 2 else -2.0)
    chosen = experiment.choose(bare(experiment), model)
    assert 3 <= len(chosen) <= 6 and all(sum(t) % 2 for t in chosen["tokens"])
    assert all(len(t) == 24 for t in chosen["tokens"]) and (chosen["copies"] >= 2).all()
    geometry, choices = handle.config.geometry, {"verbatim": chosen}
    removed = ask_removals([experiment], 0, geometry, handle.corpus, choices)
    assert [list(each.tokens) for _, each in removed.texts] == [list(t) for t in chosen["tokens"]]
    assert {each.condition for _, each in removed.texts} == {"found"}


def test_too_few_names_the_lengths_that_would_do(handle, bare):
    experiment = scanning()
    model = Model(handle, lambda tokens: -0.5 if len(tokens) == 8 else -2.0)
    with pytest.raises(ValueError, match=r"0 of \d+ texts of 14\+10 .*set prompt .* to 4\+4"):
        experiment.choose(bare(experiment), model)
    model.score = lambda tokens: -2.0
    with pytest.raises(ValueError, match="train it, or lower fewest"):
        experiment.choose(bare(experiment), model)


def test_found_texts_are_binned_by_what_remains(handle):
    experiment = verbatim(most=3)
    model = Model(handle, lambda tokens: -2.0)
    found = model.items["condition"].str.startswith("family-12") & (model.items["window"] < 0)
    model.items.loc[found, "condition"] = "found"
    table = experiment.outcome(model)
    bins = table[table["condition"].str.startswith("found")]
    assert len(bins) == 16
    for condition, near in zip(bins["condition"], bins["near_edits"], strict=True):
        least = int(condition.removeprefix("found-").removesuffix("+"))
        assert least == max(b for b in experiment.bins if b <= near)


def test_found_texts_of_one_row_are_one_group():
    rows = [np.array(each) for each in ([1, 2], [9], [2, 7], [7], [1, 9], [])]
    assert group_texts(rows, [True] * 6) == [0, 0, 0, 0, 0, 5]
    assert group_texts(rows, [True] * 4 + [False] * 2) == [0, 1, 0, 0, 4, 5]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"families": None}, "with most = 0 it needs families"),
        ({"bins": (1, 2)}, "bins must begin with 0"),
        ({"primary": "other/x"}, "primary must be"),
        ({"primary": "completed_by_near_duplicates/9-vs-0"}, "condition must be among .*12-vs-0"),
    ],
)
def test_impossible_settings_are_refused(change, expected):
    with pytest.raises(ValueError, match=expected):
        verbatim(**change)


@pytest.mark.parametrize(("prompt", "advice"), [(40, "raise Families"), (1, "lower Families")])
def test_passages_and_lengths_must_fit(bare, prompt, advice):
    experiment = verbatim(prompt=prompt)
    with pytest.raises(ValueError, match=advice):
        list(experiment.removes(bare(experiment)))


def test_the_figure_has_a_line_per_kind_and_run(handle):
    table = pd.DataFrame([dataclasses.asdict(e) for e in estimates(handle, noise).values()])
    both = pd.concat([table.assign(step=step, seed=0) for step in (20, 40)])
    axes = Figure().subplots()
    verbatim().figure(both, axes)
    assert [len(panel.lines) >= 6 for panel in axes.child_axes] == [True, True]
