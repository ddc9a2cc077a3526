"""Errors of an author's code name its file and line, in each method that the author may write."""

import dataclasses
import json
import re

import numpy as np
import pytest
from fakes import Planted

from ttoaa.author_errors import blame
from ttoaa.experiments.context import ask_reserve, intervene, list_probes, make_worlds

HERE = rf"{re.escape(__file__)}:\d+"


@dataclasses.dataclass(frozen=True)
class Wrong(Planted):
    def intervene(self, world):
        yield from super().intervene(world)
        raise KeyError("no such\nitem")

    def probes(self, world):
        return self.nothing  # misspelt

    def reserve_windows(self, geometry):
        return np.zeros(3)[geometry.steps]


def test_each_method_of_an_experiment_is_named(tiny_study, corpus):
    experiment = Wrong("mine")
    geometry = tiny_study.geometry
    reserve = ask_reserve([Planted("mine")], 0, geometry, corpus, 8)
    worlds = make_worlds([Planted("mine")], 0, geometry, corpus, reserve)
    for call, reason in [
        (
            lambda: list(intervene([experiment], worlds)["mine"].items),
            r"KeyError\('no such.*item'\)",
        ),
        (lambda: list_probes([experiment], worlds), "AttributeError.*nothing.*"),
        (lambda: ask_reserve([experiment], 0, geometry, corpus, 8), "IndexError.*"),
    ]:
        with pytest.raises(ValueError, match=rf"^mine: {reason} \({HERE}\)$"):
            call()


def test_the_line_is_the_authors_not_that_of_a_library():
    with pytest.raises(ValueError, match=rf"^x: cannot reshape .* \({HERE}\)$"), blame("x"):
        np.zeros(3).reshape(2, 2)
    with pytest.raises(ValueError, match=rf"^x: Expecting property .* \({HERE}\)$"), blame("x"):
        json.loads("{")
