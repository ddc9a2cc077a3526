import re

import numpy as np
import pytest
from fakes import Given

from ttoaa.data.order import Order
from ttoaa.experiments.base import Item
from ttoaa.planning import show
from ttoaa.planning.placement import Explicit
from ttoaa.planning.show import show_step


@pytest.fixture
def shown(corpus, plan_of):
    """What step 3 shows, with these texts in the rows 2, 3, … from token 10 on."""

    def shown(*texts, step=3):
        tokens = [corpus.tokenizer.encode(text) for text in texts]
        items = tuple(
            Item(f"text-{k}", "told", 1, t, placement=Explicit([step * 8 + 2 + k], 10))
            for k, t in enumerate(tokens)
        )
        plan = plan_of([Given("given", items=items)])
        order = Order(**plan.contents["order"])
        return show_step(corpus, order, plan, 3)

    return shown


def test_every_edit_of_the_step_is_shown_in_its_context(corpus, shown):
    lines = shown("a quiet boat", "salt and grain").splitlines()
    sizes = [len(corpus.tokenizer.encode(text)) for text in ("a quiet boat", "salt and grain")]
    assert lines[0] == f"step 3: 2 edits, {sum(sizes) / 256:.1%} of 256 tokens"
    assert lines[1] == (f"row 2 tokens 10-{9 + sizes[0]}  given/told  item text-0  copy 1")
    assert lines[3].startswith("row 3 tokens 10-") and "item text-1" in lines[3]
    order = Order(0, corpus.num_windows("train", 32))
    row = corpus.windows("train", order.windows(np.array([3 * 8 + 2])), 32)[0]
    before, after = row[2:10], row[10 + sizes[0] : 18 + sizes[0]]
    decode = corpus.tokenizer.decode
    assert lines[2] == f"    {decode(before)}[[a quiet boat]]{decode(after)}"
    assert len(lines) == 5


def test_a_step_without_edits(shown):
    assert shown("sea", step=4) == "step 3: 0 edits, 0.0% of 256 tokens"


EVIL = ["\x1b[31mred\x1b[0m", "\x1b]0;t\x07", "a\rb", "tab\tz", "\x9b2J", "\u202eright", "\0"]


@pytest.mark.parametrize("text", EVIL)
def test_control_characters_of_the_data_never_reach_the_terminal(shown, text):
    out = shown(text)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]", out)
    inside = re.search(r"\[\[(.*)\]\]", out)[1]
    assert len(inside) == len(text)
    assert inside == "".join(c if c.isprintable() else "·" for c in text)


def test_line_ends_are_shown_as_signs(shown):
    assert "[[salt⏎⏎or]]" in shown("salt\n\nor")


def test_names_from_an_experiment_are_neutralised_too(corpus, plan_of):
    item = Item("\x1b[31mid", "c\x07", 1, np.array([5], np.int32), placement=Explicit([24], 10))
    plan = plan_of([Given("given", items=(item,))])
    out = show_step(corpus, Order(**plan.contents["order"]), plan, 3)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", out)


def test_experiments_have_colours_of_their_own_on_a_terminal(corpus, tiny_plan, monkeypatch):
    order = Order(**tiny_plan.contents["order"])
    steps = [k for k in range(40) if tiny_plan.between(8 * k, 8 * k + 8) != slice(0, 0)]
    monkeypatch.setattr(show.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    colours = {}
    for step in steps:
        lines = show_step(corpus, order, tiny_plan, step).splitlines()[1:]
        for head, text in zip(lines[::2], lines[1::2], strict=True):
            experiment = re.search(r"  (\S+)/", head)[1]
            begin, end = re.findall(r"\x1b\[(\d+)m", text)
            assert end == "0"
            colours.setdefault(experiment, set()).add(begin)
    assert sorted(colours) == ["forgetting", "late", "planted"]
    assert all(len(c) == 1 for c in colours.values())
    assert len(set.union(*colours.values())) == 3
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in show_step(corpus, order, tiny_plan, steps[0])
