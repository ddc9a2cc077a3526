"""Every config under configs/ loads; the sizes and the paper's run are what they say."""

import pathlib
import re

import pytest

from ttoaa import config
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


def size_file(size):
    return CONFIGS / f"sizes/olmo2-{size}.gin"


def load(*files):
    return config.load(files)[0]


def test_no_size_is_forgotten_here():
    assert {size_file(size) for size in SIZES} == set((CONFIGS / "sizes").glob("*.gin"))


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*.gin")), ids=lambda path: path.stem)
def test_every_config_loads_and_opens_with_what_it_is_for(path):
    text = path.read_text()
    own = path.parent in (CONFIGS, CONFIGS / "studies")
    study = own and re.search(r"^Study\.name\b", text, re.MULTILINE)
    base = CONFIGS / "studies" / "knowledge.gin" if path.stem == "small" else PAPER
    study = load(path) if study else load(base, path)
    assert study.geometry.steps > 0
    opening = re.match(r"(?:#.*\n)+", text)[0]
    words = ["python -m ttoaa", "Hardware:", "Time:", "Expected"]
    words = words if path == PAPER or path.parent.name == "studies" else ["#"]
    assert all(word in opening for word in words), opening


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
