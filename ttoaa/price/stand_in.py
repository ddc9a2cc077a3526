"""Draw an experiment's items without a corpus: a stand-in for its tokenizer and its reserve."""

import contextlib
import dataclasses
import inspect
import io
import pathlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ttoaa import config_fields
from ttoaa.config import Study
from ttoaa.data.order import Order
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE
from ttoaa.experiments import base, context
from ttoaa.experiments.base import Experiment, World
from ttoaa.planning.expected_insertions import Insertions

_LARGEST_BPE = 8192


@dataclasses.dataclass(frozen=True)
class Expected:
    """What one experiment inserts, or why that is not known yet."""

    name: str
    insertions: Insertions | None
    unknown: str = ""
    """Why there are no `insertions`, or what they leave out."""


def expected_insertions(study: Study) -> tuple[list[Expected], bool]:
    """Return what each experiment inserts, and whether the tokenizer is the study's own."""
    with _tokenizer(study) as (tokenizer, own):
        return [_expect(each, study, tokenizer) for each in study.experiments], own


def _expect(experiment: Experiment, study: Study, tokenizer: Tokenizer) -> Expected:
    removes = context.removes_texts(experiment)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # experiments report what they draw
            world = _world(experiment, study, tokenizer)
            counts = type(experiment).expected_insertions is Experiment.expected_insertions
            if context.chooses(experiment) and counts and not removes:
                choices = experiment.choose(world, _Model(np.random.default_rng(0)))
                world = dataclasses.replace(world, choices=choices)
            found = experiment.expected_insertions(world)
    except Exception as error:  # of an author's code, or for lack of a file, a corpus or a model
        reason = " ".join(str(error).split()) or type(error).__name__
        return Expected(experiment.name, None, reason.removeprefix(f"{experiment.name}: "))
    note = "replaced rows with removed texts depend on the corpus" if removes else ""
    return Expected(experiment.name, None if removes and not found.tokens else found, note)


def _world(experiment: Experiment, study: Study, tokenizer: Tokenizer) -> World:
    geometry = study.geometry
    sizes = experiment.reserve_windows(geometry)
    windows = np.arange(sizes if isinstance(sizes, int) else sum(sizes))

    def read() -> np.ndarray:
        shape = len(windows), geometry.length
        return np.random.default_rng(0).integers(1, tokenizer.reserved_ids.start, shape, np.int32)

    order = Order(0, geometry.sequences)
    return World(
        0, experiment.name, tokenizer, geometry, windows, read, windows, None, stream=order
    )


class _Model:
    """A stand-in for the reference model, which finds random tokens the least likely."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng

    def least_likely(
        self, prompts: Sequence[np.ndarray], count: int, among: np.ndarray
    ) -> np.ndarray:
        return self._rng.choice(among, (len(prompts), count))

    def __getattr__(self, name: str) -> Any:
        raise ValueError("it asks the reference model")


@contextlib.contextmanager
def _tokenizer(study: Study) -> Iterator[tuple[Tokenizer, bool]]:
    """Yield the study's tokenizer file if it is there, else one that is trained on source code."""
    asked = getattr(study.prepare, "tokenizer", None)
    if isinstance(asked, ExistingTokenizer) and pathlib.Path(asked.path).is_file():
        yield asked.load(pathlib.Path(asked.path)), True
        return
    size = min(study.model.vocab_size, _LARGEST_BPE)
    trained = asked if isinstance(asked, TrainBPE) else TrainBPE(size)
    if trained.vocab_size > _LARGEST_BPE:
        trained = TrainBPE(_LARGEST_BPE)
    modules = (base, config_fields, context, contextlib, dataclasses, inspect, pathlib, tempfile)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "tokenizer.json"
        path.write_bytes(trained.make([inspect.getsource(each) for each in modules]))
        yield Tokenizer(path, study.model.vocab_size), False
