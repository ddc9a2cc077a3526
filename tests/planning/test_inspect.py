import re
import subprocess
import sys

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.data.order import Order
from ttoaa.planning import inspect as module
from ttoaa.planning.inspect import show
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Explicit
from ttoaa.workdir import Workdir


def show_of(plan, what):
    return show(Workdir(plan.folder.parent), what)


@pytest.fixture
def shown(corpus, plan_of):
    """What step 3 shows, with these texts in the rows 2, 3, … from token 10 on."""

    def shown(*texts, step=3):
        tokens = [corpus.tokenizer.encode(text) for text in texts]
        items = tuple(
            Item(f"text-{k}", "told", 1, t, placement=Explicit([step * 8 + 2 + k], 10))
            for k, t in enumerate(tokens)
        )
        return show_of(plan_of([Given("given", items=items)]), "step=3")

    return shown


def test_every_edit_of_the_step_is_shown_in_its_context(corpus, shown):
    lines = shown("a quiet boat", "salt and grain").splitlines()
    sizes = [len(corpus.tokenizer.encode(text)) for text in ("a quiet boat", "salt and grain")]
    assert lines[0] == f"step 3: 2 edits, {sum(sizes) / 256:.1%} of 256 tokens"
    assert lines[1] == (f"step 3 row 2 tokens 10-{9 + sizes[0]}  given/told  item text-0  copy 1")
    assert lines[3].startswith("step 3 row 3 tokens 10-") and "item text-1" in lines[3]
    order = Order(0, corpus.num_windows("train", 32))
    row = corpus.windows("train", order.windows(np.array([3 * 8 + 2])), 32)[0]
    before, after = row[2:10], row[10 + sizes[0] : 18 + sizes[0]]
    decode = corpus.tokenizer.decode
    assert lines[2] == f"    {decode(before)}[[a quiet boat]]{decode(after)}"
    assert len(lines) == 5


def test_a_step_without_edits(shown):
    assert shown("sea", step=4) == "step 3: 0 edits, 0.0% of 256 tokens"


def test_a_row_is_shown_whole(corpus, plan_of):
    items = tuple(
        Item(f"i{at}", "told", 1, corpus.tokenizer.encode(text), placement=Explicit([26], at))
        for at, text in ((3, "boat"), (20, "sea"))
    )
    plan = plan_of([Given("given", items=items)])
    lines = show_of(plan, "row=26").splitlines()
    assert lines[0] == "row 26 of training: step 3 row 2, 2 edits"
    assert lines[1].startswith("step 3 row 2 tokens 3-") and lines[2].endswith("item i20  copy 1")
    window = Order(0, corpus.num_windows("train", 32)).windows(np.array([26]))
    row = corpus.windows("train", window, 32)[0]
    sizes = [len(item.tokens) for item in items]
    decode = corpus.tokenizer.decode
    middle, end = decode(row[3 + sizes[0] : 20]), decode(row[20 + sizes[1] :])
    assert lines[3] == f"{decode(row[:3])}[[boat]]{middle}[[sea]]{end}"


@pytest.fixture(scope="module")
def planned(plan_of):
    text = np.arange(40, 49, dtype=np.int32)
    kinds = (
        Item("twice", "told", 5, text),
        Item("slot", "kept", 1, slot=6),
        Item("mark", "seen", 1, mark=7),
        Item("out", "told", 0, text),
        Item("a/b", "told", 1, text),
    )
    return plan_of(
        [
            Given("given", items=kinds),
            Given("other", items=(Item("twice", "c", 1, text),)),
            Planted("planted", windows=1),
        ]
    )


def test_every_copy_of_an_item_is_shown(planned, corpus):
    lines = show_of(planned, "item=given/twice").splitlines()
    assert lines[0] == "given/twice (given/told): 5 copies of 9 tokens"
    columns = planned.columns
    edits = np.flatnonzero(columns["item"] == 0)
    copies = sorted(edits.tolist(), key=lambda edit: columns["repetition"][edit])
    heads = [line for line in lines[1:] if not line.startswith("    ")]
    assert heads == [
        f"step {columns['position'][e] // 8} row {columns['position'][e] % 8} tokens "
        f"{columns['offset'][e]}-{columns['offset'][e] + 8}  given/told  item twice  copy {k + 1}"
        for k, e in enumerate(copies)
    ]
    texts = [line for line in lines if line.startswith("    ")]
    assert len(texts) == 3
    inside = "".join(c if c.isprintable() else "·" for c in corpus.tokenizer.decode(range(40, 49)))
    assert all(f"[[{inside}]]" in line for line in texts)


def test_an_item_of_several_experiments_is_shown_of_each(planned):
    assert [x for x in show_of(planned, "item=twice").splitlines() if " of 9 tokens" in x] == [
        "given/twice (given/told): 5 copies of 9 tokens",
        "other/twice (other/c): 1 copy of 9 tokens",
    ]


def test_an_item_that_is_held_out_is_said_to_be(planned):
    assert show_of(planned, "item=out") == "given/out: held out, never inserted"


def test_an_id_may_have_a_slash(planned):
    for name in ("a/b", "given/a/b"):
        assert show_of(planned, f"item={name}").startswith("given/a/b (given/told): 1 copy")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("slot", "a controller's slot, still empty"),
        ("mark", "a mark, its tokens are those of the corpus"),
        ("planted/row-0", "reserve window "),
    ],
)
def test_what_is_not_copied_tokens_is_said_to_be(planned, name, said):
    assert f"  copy 1  {said}" in show_of(planned, f"item={name}")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("given/twise", ": did you mean given/twice"),
        ("4x-9", ": did you mean planted/4x-"),
        ("xyz", ""),
        ("nobody/xyz", ""),
    ],
)
def test_an_unknown_item_is_one_line_with_what_is_near(planned, name, near):
    with pytest.raises(ValueError, match=re.escape(f"no item '{name}'{near}")) as caught:
        show_of(planned, f"item={name}")
    assert "\n" not in str(caught.value) and (near or str(caught.value).endswith("'"))


@pytest.mark.parametrize("what", ["step=40", "step=-1", "step=x", "7", "row=320", "item=", "row"])
def test_what_there_is_not_is_one_line(planned, what):
    with pytest.raises(ValueError, match="step=K with K from 0 to 39, row=P with P up to 319"):
        show_of(planned, what)


def test_a_plan_of_another_corpus_is_refused(planned, make_workdir):
    workdir = make_workdir()
    workdir.plan.symlink_to(planned.folder)
    manifest = workdir.corpus / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"source": "', '"source": "another '))
    with pytest.raises(ValueError, match="was made for another corpus than"):
        show(workdir, "step=3")


def test_long_spans_are_cut_in_the_middle(corpus, plan_of, monkeypatch):
    monkeypatch.setattr(module, "_LONGEST", 6)
    words = corpus.tokenizer.encode("the river runs down to a quiet sea and every boat upon it")
    plan = plan_of([Given("g", items=(Item("i", "c", 1, words, placement=Explicit([24], 0)),))])
    decode = corpus.tokenizer.decode
    cut = f"{decode(words[:3])} [… {len(words) - 6} tokens …] {decode(words[-3:])}"
    assert f"[[{cut}]]" in show_of(plan, "item=i")


def test_it_is_quick_to_import():
    code = "import sys, ttoaa.plan, ttoaa.planning.inspect\n"
    code += "print(*[m for m in ('jax', 'grain', 'tensorflow', 'seqio') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"


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


def test_names_from_an_experiment_are_neutralised_too(plan_of):
    item = Item("\x1b[31mid", "c\x07", 1, np.array([5], np.int32), placement=Explicit([24], 10))
    plan = plan_of([Given("given", items=(item,))])
    for what in ("step=3", "row=24", "item=given/\x1b[31mid"):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", show_of(plan, what))


def test_experiments_have_colours_of_their_own_on_a_terminal(tiny_plan, monkeypatch):
    steps = [k for k in range(40) if tiny_plan.between(8 * k, 8 * k + 8) != slice(0, 0)]
    monkeypatch.setattr(module.sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    colours = {}
    for step in steps:
        lines = show_of(tiny_plan, f"step={step}").splitlines()[1:]
        for head, text in zip(lines[::2], lines[1::2], strict=True):
            experiment = re.search(r"  (\S+)/", head)[1]
            begin, end = re.findall(r"\x1b\[(\d+)m", text)
            assert end == "0"
            colours.setdefault(experiment, set()).add(begin)
    assert sorted(colours) == ["forgetting", "late", "planted"]
    assert all(len(c) == 1 for c in colours.values())
    assert len(set.union(*colours.values())) == 3
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b" not in show_of(tiny_plan, f"step={steps[0]}")
