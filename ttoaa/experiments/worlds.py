"""The world of each experiment of a study: its random stream and its windows of the reserve."""

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Experiment, World
from ttoaa.planning.items import Intervention
from ttoaa.planning.reserve import assign, split_reserve


def make_worlds(
    experiments: Sequence[Experiment],
    seed: int,
    geometry: Geometry,
    corpus: Corpus,
    validation: int,
) -> dict[str, World]:
    """One World for each experiment, by name; `validation` reserve windows belong to nobody."""
    names = [experiment.name for experiment in experiments]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two experiments are named {twice[0]!r}: give each its own name")
    _, pool = split_reserve(corpus.num_windows("reserve", geometry.length), validation)
    needs = {e.name: e.reserve_windows(geometry) for e in experiments}
    windows = assign(needs, pool, seed)
    return {
        name: World(
            seed=seed,
            name=name,
            tokenizer=corpus.tokenizer,
            geometry=geometry,
            windows=windows[name],
            reserve_NxL=corpus.windows("reserve", windows[name], geometry.length),
        )
        for name in names
    }


def validation_tokens(corpus: Corpus, geometry: Geometry, validation: int) -> np.ndarray:
    """int32[validation, L]: the validation set, the same for every seed."""
    windows, _ = split_reserve(corpus.num_windows("reserve", geometry.length), validation)
    return corpus.windows("reserve", windows, geometry.length)


def intervene(
    experiments: Sequence[Experiment], worlds: Mapping[str, World]
) -> dict[str, Intervention]:
    """What every experiment does, by name."""
    return {
        e.name: Intervention(tuple(e.intervene(worlds[e.name])), worlds[e.name].windows)
        for e in experiments
    }


def fingerprint(experiments: Sequence[Experiment]) -> str:
    """sha256 of the experiments' configuration, in any order."""
    text = json.dumps(sorted(repr(experiment) for experiment in experiments))
    return hashlib.sha256(text.encode()).hexdigest()
