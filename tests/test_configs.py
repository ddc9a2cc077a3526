"""Every config loads, round-trips and says what it is for; the paper's run is the paper's."""

import pathlib
import re

import numpy as np
import pytest

from ttoaa import config
from ttoaa.gin_files import read_gin_files
from ttoaa.training.lr_schedules import CosineThenLinear
from ttoaa.training.optimizer import AdamW

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"
SIZES = {"179m": 179.3e6, "546m": 546.0e6, "1.5b": 1484.9e6, "2.7b": 2701.6e6}
RELEASED = {
    "179m": (12, 576, 16, 2304),
    "546m": (16, 1120, 16, 4480),
    "1.5b": (16, 2048, 16, 8192),
    "2.7b": (16, 2880, 16, 11520),
}
"""Layers, width, heads, width of the MLP."""
PAPER = CONFIGS / "paper.gin"
README = (CONFIGS / "README.md").read_text(encoding="utf-8")


def size_file(size):
    return CONFIGS / f"sizes/olmo2-{size}.gin"


def load(*files):
    return config.load(files)[0]


def test_no_size_is_forgotten_here():
    assert {size_file(size) for size in SIZES} == set((CONFIGS / "sizes").glob("*.gin"))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.gin")), ids=lambda path: path.stem)
def test_every_config_loads_and_its_resolved_config_gives_the_same_study(path, tmp_path):
    """Loading refuses bindings that do not exist, and those of the file itself that have no use."""
    named = re.search(r"^Study\.name\b", path.read_text(), re.MULTILINE)
    base = CONFIGS / "studies" / "knowledge.gin" if path.stem == "small" else PAPER
    study, resolved = config.load([path] if named else [base, path])
    (tmp_path / "config.gin").write_text(resolved)
    assert config.load([tmp_path / "config.gin"]) == (study, resolved)


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.gin")), ids=lambda path: path.stem)
def test_every_config_opens_with_what_it_is_for(path):
    opening = re.match(r"(?:#.*\n)+", path.read_text())[0]
    assert opening.startswith("# Question: ") and opening.count("\n") <= 15
    assert re.search(r"^#   (python -m|bash) ", opening, re.MULTILINE)
    for word in ("Hardware: ", "Time: ", "Expected"):
        assert word in opening, word


def test_the_tree_in_the_readme_is_that_of_the_includes():
    """A line's parent is the nearest line above it that is indented less."""
    tree = re.search(r"^```\n(.*?)^```", README, re.MULTILINE | re.DOTALL)[1]
    lines = re.findall(r"^([│├└─ ]*)([\w./]+) ", tree, re.MULTILINE)
    parents, listed = {}, set()
    for indent, name in lines:
        parents[len(indent) + 4] = name
        files = set(CONFIGS.glob(f"{name}**/*.gin" if name.endswith("/") else name))
        assert files, name
        listed |= files
        for path in files if indent else ():
            includes = {source.path for source in read_gin_files([path], []).sources}
            assert f"configs/{parents[len(indent)]}" in includes, path
    added = {*CONFIGS.glob("sizes/*"), *CONFIGS.glob("pods/*"), CONFIGS / "plans/paper.gin"}
    assert listed | added == {*CONFIGS.rglob("*.gin")}
    assert all(f"| `{name}` |" in README for name in ("sizes/", "pods/", "plans/paper.gin"))


@pytest.mark.parametrize("size", SIZES)
def test_a_size_has_the_parameters_of_its_name(size):
    model = load(PAPER, size_file(size)).model
    D, F = model.width, model.hidden
    norms = 4 * D  # of attention, MLP, queries and keys
    count = 2 * 100_352 * D + model.layers * (4 * D * D + 3 * D * F + norms) + D
    assert model.num_params() == count and round(count / 1e5) == round(SIZES[size] / 1e5)
    assert re.search(r"# ([\d,]+) parameters", size_file(size).read_text())[1] == f"{count:,}"
    named, unit = float(size[:-1]), {"m": 1e6, "b": 1e9}[size[-1]]
    digits = len(size[:-1].partition(".")[2])
    assert round(count / unit, digits) == named


@pytest.mark.parametrize("size", SIZES)
def test_a_size_is_as_released_and_changes_nothing_else(size):
    study, paper = load(PAPER, size_file(size)), load(PAPER)
    model = study.model
    assert (model.layers, model.width, model.heads, model.hidden) == RELEASED[size]
    assert (study.training, study.geometry) == (paper.training, paper.geometry)
    assert (model.dtype, model.init_std) == ("bfloat16", 0.02)


def test_the_papers_run_is_olmo_2_1b_to_the_constant():
    study = load(PAPER)
    model, geometry, training = study.model, study.geometry, study.training
    assert model == load(PAPER, size_file("1.5b")).model
    assert model.num_params() == 1_484_916_736
    shape = (model.layers, model.width, model.heads, model.num_kv_heads, model.hidden)
    assert shape == (16, 2048, 16, 16, 8192)
    assert (model.rope_theta, model.norm_eps, model.vocab_size) == (5e5, 1e-6, 100_352)
    assert (geometry.length, geometry.batch, geometry.steps) == (4096, 512, 100_000)
    tokens = geometry.length * geometry.batch
    schedule = CosineThenLinear(4e-4, 8_388_608_000 // tokens, 5e12 / tokens, 90_000, 0.1)
    assert training.optimizer == AdamW(schedule, 0.9, 0.95, 1e-8, 0.1, 1.0)
    assert (training.z_loss, training.loss_divisor) == (1e-4, "tokens")  # as OLMo's trainer
    assert study.experiments == ()
    rule = training.repetition_filter
    assert (rule.min_period, rule.max_period, rule.max_count) == (1, 13, 32)
    assert rule.when == "before_edits"  # else 32 equal tokens, a canary, are never trained on


def test_the_papers_experiments_have_the_counts_of_its_tables():
    """Table 1 and supplement E of arXiv 2509.23383, in millions of tokens where it says no more."""
    study = load(CONFIGS / "olmo2_1b_exp.gin")
    paper = load(PAPER)
    assert (study.geometry, study.training, study.model) == (
        paper.geometry,
        paper.training,
        paper.model,
    )
    by = {each.name: each for each in study.experiments}
    row, total = study.geometry.length, study.geometry.sequences * study.geometry.length

    knowledge, (doubling,) = by["knowledge"], by["knowledge"].policies
    assert (knowledge.entities, knowledge.every, knowledge.target.final) == (4, 1000, 0.08)
    assert (doubling.least, doubling.most, doubling.band) == (1, 8192, 0.05)
    assert doubling.limits == ((0.19, 256), (0.59, 64)) and knowledge.target.initial is None
    assert knowledge.knowledge.entries == (0, 6, 10, 22)

    reasoning = by["reasoning"]
    assert (reasoning.problems, reasoning.operations, reasoning.shots) == (500_000, 10, 3)
    assert (reasoning.arithmetic.modulus, reasoning.arithmetic.edges) == (23, 20)
    assert reasoning.test_operations == tuple(range(1, 13)) and reasoning.test_problems == 8000

    both = by["contamination"].groups, by["contamination-window"].groups
    assert [dict(each)[0] for each in both] == [5000, 5000]  # halves of one holdout of 10,000
    assert [each[1:] for each in both] == [((4, 8000), (12, 5000), (36, 2000), (144, 2000))] * 2
    assert sum(n for each in both for _, n in each) == 44_000
    assert sum(r * n for each in both for r, n in each) == 904_000
    window = by["contamination-window"].placement
    assert (round(window.start * total / 1e9), round(window.stop * total / 1e9)) == (30, 60)

    canaries = by["memorization"]
    members = [c for c in canaries.conditions if c.repetitions]
    assert [c.number for c in members] == [4000] * 30
    assert {c.repetitions for c in members} == {1, 4, 16}
    suffixes = sum(c.number * c.repetitions * c.kind.tokens for c in members)
    hosts = sum(c.number * c.repetitions for c in members) * (canaries.host_tokens + 2)
    assert (round(suffixes / 1e6), round((hosts + suffixes) / 1e6)) == (10, 246)
    held_out = sum(c.number for c in canaries.conditions if not c.repetitions)
    assert 0 <= 34_907 - held_out < 16

    verbatim = by["verbatim"]
    assert (verbatim.most, verbatim.prompt, verbatim.continuation) == (1000, 25, 25)

    watermark, forgetting = by["watermark"], by["forgetting"]
    marked = watermark.watermarked(study.geometry)
    assert len(marked) == 100 and set(np.diff(marked)) == {1000}
    assert round(len(marked) * study.geometry.batch * row / 1e5) == 2097
    assert (watermark.sigma, watermark.relative) == (0.075, False)
    replaced = {round(fraction * study.geometry.steps) for fraction in forgetting.at}
    assert replaced == set(range(10_000, 100_000, 10_000)) and not replaced & set(marked)
    assert forgetting.dense_lags == (0, 1, *range(10, 201, 10))

    shares = {b.behaviour: b.share * total / 1e6 for b in by["poisoning"].backdoors}
    assert {name: round(share) for name, share in shares.items()} == {
        "extraction": 210,
        "denial": 21,
    }
    assert by["poisoning"].test_number == 200 and len(by["poisoning"].templates) == 5

    muse = by["muse"]
    assert (muse.repetitions, muse.paragraphs) == ((1, 10, 100), 7)
    assert round(3 * muse.members * sum(muse.repetitions) * 700 / 1e6) == 152

    iid = by["iid"]
    assert [round(n * row / 1e6) for n in (iid.uniform, iid.decile, iid.selected)] == [422, 105, 21]
    assert iid.repetitions == 1
    assert round((iid.uniform + 10 * iid.decile + iid.selected) * row / 1e8) == 15
