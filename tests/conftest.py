"""A small real corpus, made of words that the tests write, and a tiny study on it."""

import dataclasses
import fcntl
import functools
import os
import pathlib
import shutil
import tempfile

import jax
import numpy as np
import pytest
import studies
from fakes import SENTENCE, Planted
from markupsafe import Markup
from matplotlib.figure import Figure

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.data.prepare.pipeline import Prepare, prepare
from ttoaa.data.sources.base import keyed_fraction
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.vocabulary import TrainBPE
from ttoaa.experiments.forgetting import Forgetting
from ttoaa.model.decoder import DecoderConfig
from ttoaa.planning.placement import Within
from ttoaa.reporting import figures, page, run_comparison, svg
from ttoaa.study_handle import StudyHandle
from ttoaa.training.config import Training
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW
from ttoaa.workdir import Workdir

SHARED = "TTOAA_TESTS_SHARED"
"""Environment variable: the folder that all workers of a session share."""


def pytest_configure(config):
    """Share a folder, and XLA's compilations in it, among workers and the processes of tests."""
    if SHARED not in os.environ:
        os.environ[SHARED] = folder = tempfile.mkdtemp(prefix="ttoaa-tests-")
        config.add_cleanup(functools.partial(shutil.rmtree, folder, ignore_errors=True))
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{os.environ[SHARED]}/xla")
    os.environ["XLA_FLAGS"] = studies.QUICK
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    # JAX is imported already, so that for this process the environment comes too late; XLA reads
    # its flags later, when the first array is made.
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_modifyitems(items):
    """Begin with whole runs and commands: they take longest, so all workers end at one time."""
    first = ("training", "tests")
    items.sort(key=lambda item: [*first, item.path.parent.name].index(item.path.parent.name))


def shared(name, make):
    """The shared folder of this name; the first worker to need it calls make(folder)."""
    folder = pathlib.Path(os.environ[SHARED], name)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as unfinished:
                made = pathlib.Path(unfinished, name)
                made.mkdir()
                make(made)
                made.rename(folder)
    return folder


def write_text(folder):
    """Write 100 documents of common words and numbers, and more that all go to the reserve."""
    rng = np.random.default_rng(13)
    texts = []
    for number in range(400):
        words = rng.choice(SENTENCE.split(), rng.integers(10, 40)).tolist()
        text = " ".join([*words, str(rng.integers(10**6))])
        if number < 100 or keyed_fraction("reserve", text) < 0.3:
            texts.append(text)
    (folder / "all.txt").write_text("\n%%\n".join(texts))


@pytest.fixture(scope="session")
def corpus_prepare():
    """The Prepare of `corpus`: documents of common words and numbers, in several shards."""
    folder = shared("text", write_text)
    source = TextFiles([str(folder)], separator="\n%%\n")
    return Prepare(source, TrainBPE(320, 32), reserve_fraction=0.3, shard_characters=4_500)


@pytest.fixture(scope="session")
def corpus_folder(corpus_prepare, tmp_path_factory):
    """A finished corpus; shared by all tests, so whoever damages it takes a copy."""
    folder = tmp_path_factory.mktemp("workdir") / "corpus"
    prepare(corpus_prepare, folder, progress=False)
    return folder


@pytest.fixture(scope="session")
def corpus(corpus_prepare, corpus_folder):
    """139 training and 64 reserve windows of 32 tokens: 40 steps of 8 are over two epochs."""
    return prepare(corpus_prepare, corpus_folder, progress=False)


@pytest.fixture(scope="session")
def tiny_study(corpus_prepare):
    """40 steps of 8 rows of 32 tokens, a model of two layers, three experiments."""
    return config.Study(
        name="tiny",
        prepare=corpus_prepare,
        geometry=Geometry(length=32, batch=8, steps=40),
        model=DecoderConfig(vocab_size=320, layers=2, width=32, heads=2, hidden=64),
        training=Training(
            AdamW(ConstantLinear(peak=1e-2, warmup=4)), checkpoint_every=10, validate_every=10
        ),
        experiments=(
            Planted("planted", probe_steps=(0, 20, 40)),
            Planted("late", windows=3, placement=Within(0.5, 1.0)),
            Forgetting("forgetting", "cross_entropy/lag-1", -1, at=(0.4,)),
        ),
        validation_sequences=8,
    )


@pytest.fixture(scope="session")
def make_workdir(corpus_folder, tmp_path_factory):
    """Makes a new Workdir with its own copy of the corpus."""

    def make(seed=0):
        root = tmp_path_factory.mktemp("study")
        shutil.copytree(corpus_folder, root / "corpus", ignore=shutil.ignore_patterns("scans"))
        return Workdir(root, seed)

    return make


@pytest.fixture(scope="session")
def plan_of(tiny_study, make_workdir):
    """The stored Plan of these experiments, instead of the tiny study's, in a new Workdir."""

    def plan(experiments, seed=0, **changes):
        study = dataclasses.replace(tiny_study, experiments=tuple(experiments), **changes)
        return StudyHandle(study, make_workdir(seed)).make_plan()[0]

    return plan


@pytest.fixture(scope="session")
def tiny_plan(tiny_study, plan_of):
    return plan_of(tiny_study.experiments)


@pytest.fixture(scope="session")
def finished(corpus_prepare, tmp_path_factory):
    """The folder of a tiny study of two seeds that one command made, and what that printed.

    One worker makes it, and each takes a copy.
    """
    made = shared("finished", functools.partial(studies.make, paths=corpus_prepare.source.paths))
    copy = tmp_path_factory.mktemp("study") / "finished"
    shutil.copytree(made, copy)
    printed = (copy / "printed").read_text()
    there = (copy / "folder").read_text()
    return copy / "work", printed.replace(there, str(copy))


@pytest.fixture(scope="module")
def sketched():
    """Reports show what figures are made of instead of figures, whose rendering takes longest."""

    def sketch(paint, name, alt, caption="", *_, **__):
        axes = Figure().add_subplot()
        paint(axes)
        drawn = [axes.dataLim.bounds, *(line.get_xydata().tolist() for line in axes.lines)]
        return svg.Picture(Markup(f"<p>{drawn}</p>"), alt, caption)

    with pytest.MonkeyPatch.context() as patch:
        for module in (figures, page, run_comparison):
            patch.setattr(module, "draw", sketch)
        yield
