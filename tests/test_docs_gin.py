"""docs/gin.md: its snippets make one config, and its five errors are what ttoaa says."""

import pathlib
import re

import pytest

from ttoaa import config
from ttoaa.planning.placement import Within

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/gin.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"^```gin\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
FORK = re.search(r"^```gin\n(.*?)^```", (ROOT / "configs/README.md").read_text(), re.M | re.S)[1]
ERRORS = re.findall(r"^\| `(.*?)` \| `(.*?)` \| .* \|$", PAGE.partition("## Five errors")[2], re.M)


@pytest.fixture
def load(tmp_path):
    def of(text):
        path = tmp_path / "first.gin"
        path.write_text(text)
        return config.load([path])[0]

    return of


def test_each_snippet_adds_to_those_before_and_does_what_the_page_says(load):
    first, more, scoped, inside = (load("".join(SNIPPETS[:n])) for n in range(1, 5))
    small = load(SNIPPETS[0] + "ConstantLinear.peak = 1e-3")
    assert more.training == small.training != first.training
    assert more.experiments[0].placement == Within(0.5, 1.0)
    canaries, often = scoped.experiments
    assert (canaries.repetitions, often.repetitions) == ((1, 16), (64,))
    assert often.placement == canaries.placement
    assert inside.experiments[1].placement == Within(0.9, 1.0)
    assert inside.experiments[0] == canaries


def test_every_binding_of_the_table_is_valid(load):
    rows = re.findall(r"^\| `(.*?)` \| a \w+ \|", PAGE, re.MULTILINE)
    lines = [row for row in rows if " = " in row and "%" not in row]
    assert len(lines) == 2 and load("".join([*SNIPPETS, *(f"{line}\n" for line in lines)]))


def test_the_fork_of_the_readme_is_a_study(load):
    assert load(FORK).geometry.steps == 300


@pytest.mark.parametrize(("line", "message"), ERRORS, ids=[line for line, _ in ERRORS])
def test_an_error_is_what_ttoaa_says(load, line, message):
    assert len(ERRORS) == 5
    text = f"{''.join(SNIPPETS)}{line}\n"
    with pytest.raises(ValueError, match=rf"first\.gin.*\b{len(text.splitlines())}\b") as error:
        load(text)
    assert message in str(error.value)
