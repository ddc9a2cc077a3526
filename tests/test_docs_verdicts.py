"""docs/verdicts.md names a test for the primary outcome of every experiment."""

import pathlib
import re

from ttoaa import config

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/verdicts.md").read_text(encoding="utf-8")


def test_every_test_that_the_page_names_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)
    assert len(named) >= 10
    for path, test in named:
        assert f"\ndef {test}(" in (ROOT / path).read_text(encoding="utf-8"), test


def test_it_has_every_primary_of_the_pooled_study():
    study, _ = config.load([ROOT / "configs/all_ten.gin"])
    for experiment in study.experiments:
        assert f"`{experiment.primary}` ({experiment.name})" in PAGE
