"""docs/extending: each page's file is imported, its config loaded and its test run."""

import dataclasses
import importlib
import inspect
import pathlib
import re
import sys

import jax
import numpy as np
import pytest

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.scoring.attacks import MinK
from ttoaa.training.optimizer import Optax
from ttoaa.training.step import CompiledStep

ROOT = pathlib.Path(__file__).resolve().parents[1]
FOLDER = ROOT / "docs/extending"
PAGES = ("attack", "learning_rate_schedule", "metric", "optimizer", "source")


def blocks(page, language):
    text = (FOLDER / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def forget_my_lab():
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_lab"]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{page: (module, test module)}, imported from files as a reader would write them."""
    folder, found = tmp_path_factory.mktemp("reader"), {}
    (folder / "my_lab").mkdir()
    forget_my_lab()
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for page in PAGES:
            (name,) = re.findall(r"Write `my_lab/(\w+)\.py`", (FOLDER / f"{page}.md").read_text())
            parts = zip((name, f"test_{name}"), blocks(page, "python"), strict=True)
            for part, code in parts:
                (folder / "my_lab" / f"{part}.py").write_text(code)
            importlib.invalidate_caches()
            names = (f"my_lab.{name}", f"my_lab.test_{name}")
            found[page] = tuple(map(importlib.import_module, names))
        yield found
    forget_my_lab()


@pytest.fixture(scope="module")
def studies(files, tmp_path_factory):
    """{page: the studies of its configs}; those that are only some lines extend the quickstart."""
    del files
    path = tmp_path_factory.mktemp("config") / "study.gin"

    def load(text):
        path.write_text(text if "include" in text else f"include 'quickstart.gin'\n{text}")
        return config.load([path])[0]

    return {page: [load(text) for text in blocks(page, "gin")] for page in PAGES}


def test_every_page_is_in_the_table():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    linked = set(re.findall(r"\]\((\w+)\.md\)", text))
    assert {path.stem for path in FOLDER.glob("*.md")} - {"README"} <= linked
    for name in re.findall(r"`(ttoaa\.[\w.]+)`", text):
        module, _, attribute = name.rpartition(".")
        if attribute[0].isupper():
            assert inspect.isclass(getattr(importlib.import_module(module), attribute)), name


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_own_test_passes(files, page, tmp_path):
    tests = [t for name, t in vars(files[page][1]).items() if name.startswith("test_")]
    assert tests
    for test in tests:
        test(*[tmp_path] * len(inspect.signature(test).parameters))


def test_the_configs_make_what_the_pages_say(files, studies):
    by_name, lion = (study.training.optimizer for study in studies["optimizer"])
    assert isinstance(by_name, Optax) and by_name.name == "contrib.muon"
    assert lion.weight_decay == 0.5 and isinstance(lion, files["optimizer"][0].Lion)
    metrics = studies["metric"][0].training.metrics
    assert [m.name for m in metrics] == ["update_ratio/embedding", "update_ratio/head"]
    attacks = studies["attack"][0].experiments[1].attacks
    assert attacks[2] == MinK(0.05, "min_k_5") and attacks[3].name == "lowercase"
    assert studies["source"][0].prepare.source.column == "review"


def test_optimizer_schedule_and_metric_train_together(studies):
    schedule = studies["learning_rate_schedule"][0].training.optimizer.schedule
    lion = dataclasses.replace(studies["optimizer"][1].training.optimizer, schedule=schedule)
    metrics = studies["metric"][0].training.metrics
    program = CompiledStep(
        DecoderConfig(vocab_size=32, layers=1, width=16, heads=2, hidden=24),
        dataclasses.replace(studies["metric"][0].training, optimizer=lion, metrics=metrics),
        Geometry(length=8, batch=2, steps=200),
        Execution(),
        make_mesh(Layout(), jax.devices()[:1]),
    )
    tokens = np.arange(16, dtype=np.int32).reshape(2, 8)
    batch = {"tokens": tokens, "arms": tokens % 2, "trained": np.ones(2, bool)}
    state, step = program.init(0), program.compile()
    for number in range(1, 4):
        state, found = step(state, batch)
        assert found["learning_rate"] == pytest.approx(3e-3 * number / 100)
        assert 0 < found["update_ratio/head"] < 1 > found["update_ratio/embedding"] > 0
