"""Capacity by tenth of training, leaking holdouts, and the report of all checks."""

import json

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.data.geometry import Geometry
from ttoaa.planning.checks.findings import Checks
from ttoaa.planning.checks.item_texts import ItemTexts
from ttoaa.planning.checks.report import capacity_findings, capacity_table, check_plan, refuse_leaks
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Explicit, Within
from ttoaa.planning.store import summary_values


def text(*tokens):
    return np.array(tokens, np.int32)


@pytest.fixture(scope="module")
def plan(plan_of):
    """43 steps do not divide by ten: tenths have 34 or 35 rows."""
    kept = (
        Item("slot", "kept", 3, slot=6, placement=Explicit([0, 34, 35], 0)),
        Item("mark", "seen", 2, mark=7),
    )
    experiments = [
        Planted("planted", windows=2),
        Planted("late", placement=Within(0.5, 1.0)),
        Given("kept", items=kept),
        Given("out", items=(Item("x", "held", 0, text(1, 2, 3)),)),
    ]
    return plan_of(experiments, geometry=Geometry(length=32, batch=8, steps=43))


def test_room_and_shares_are_those_counted_edit_by_edit(plan):
    summary = summary_values(plan)
    arms = {arm["id"]: arm["experiment"] for arm in plan.arms}
    tenths, kinds = ({name: [0] * n for name in summary["experiments"]} for n in (10, 5))
    rows = [0] * 10
    for position in range(43 * 8):
        rows[10 * position // (43 * 8)] += 32
    for edit in range(len(plan.columns["arm"])):
        values = {name: int(column[edit]) for name, column in plan.columns.items()}
        name = arms[values["arm"]]
        tenths[name][10 * values["position"] // (43 * 8)] += values["length"]
        kinds[name][values["kind"]] += values["length"]
    assert summary["room_of_tenths"] == rows
    for name, values in summary["experiments"].items():
        assert values["tokens_of_tenths"] == tenths[name]
        assert list(values["tokens_of_kinds"].values()) == kinds[name]
        assert values["tokens"] == sum(tenths[name])
    assert summary["edited_tokens"] == sum(arm["tokens"] for arm in plan.arms)
    assert kinds["kept"][2:] == [18, 14, 0] and kinds["planted"][1] == 64
    assert json.loads((plan.folder / "summary.json").read_text()) == summary


def test_a_crowded_tenth_is_reported(plan_of):
    items = (Item("rows", "c", 5, np.arange(1, 33), placement=Explicit((96, 97, 98, 99, 100))),)
    summary = summary_values(plan_of([Given("full", items=items), Planted("planted")]))
    assert capacity_findings(summary, 0.5) == []
    (finding,) = capacity_findings(summary, 0.1)
    assert finding.experiments[0] == "full" and "of tenth 4, most of it by full" in finding.message


def test_the_table_and_the_values_say_the_same(plan):
    summary = summary_values(plan)
    values, lines = summary["experiments"], capacity_table(summary).splitlines()
    assert len(lines) == 1 + 4 + 1 and len({len(line) for line in lines}) == 1
    for line in lines[1:-1]:
        name, tokens, share, *tenths = line.split()
        assert values[name]["tokens"] == int(tokens.replace(",", ""))
        assert share == f"{values[name]['share']:.3%}" and len(tenths) == 10


@pytest.fixture(scope="module")
def removing(plan_of, corpus):
    """What a, b and c insert or hold out, and what d removes; c inserts a holdout of b."""
    items = {
        "a": [("in", 1, (5, 7, 8, 9, 6)), ("ends", 1, (4, 7, 8))],
        "b": [("begins", 1, (9, 4, 4)), ("out", 0, (7, 8, 9)), ("other", 1, (7, 8, 4))],
        "c": [("two", 1, (7, 8, 9, 7, 8, 9)), ("same", 1, (7, 8, 9))],
        "d": [("gone", 0, (7, 8, 9)), ("goes", 0, (3, 3, 3))],
    }
    plan = plan_of(
        [
            Given(
                name,
                items=tuple(
                    Item(i, "c", r, text(*t), fields={"removed": name == "d"}) for i, r, t in rows
                ),
            )
            for name, rows in items.items()
        ]
    )
    return plan, ItemTexts.of_plan(plan, corpus.eos_id)


def test_a_removed_text_is_no_holdout(removing, corpus):
    plan, texts = removing
    assert [texts.name(i) for i in np.flatnonzero(texts.removed)] == ["d/gone", "d/goes"]
    found = check_plan(plan, corpus, Checks()).findings
    assert [(f.check, f.experiments, f.items) for f in found] == [("holdout", ("b", "c"), 1)]


def test_a_holdout_that_leaks_is_refused_where_that_is_an_error(plan_of, corpus):
    def given(name, repetitions, **fields):
        return Given(name, items=(Item("i", "c", repetitions, text(1, 2, 3), fields=fields),))

    leaks = plan_of([given("held", 0), given("again", 1)])
    refuse_leaks(leaks, corpus, Checks())
    with pytest.raises(ValueError, match="a holdout leaks: 1 of 1 held-out items of held are ide"):
        refuse_leaks(leaks, corpus, Checks(holdout="error"))
    for fine in ([given("held", 0), given("again", 0)], [given("a", 1), given("b", 1)]):
        refuse_leaks(plan_of(fine), corpus, Checks(holdout="error"))


def test_what_is_nearly_a_holdout_is_no_error(plan_of, corpus):
    held, near = text(*range(1, 21)), text(*range(1, 20), 30)
    plan = plan_of(
        [Given("a", items=(Item("i", "c", 0, held),)), Given("b", items=(Item("i", "c", 1, near),))]
    )
    for asked, told in (("error", "warning"), ("warning", "warning"), ("note", "note")):
        report = check_plan(plan, corpus, Checks(holdout=asked))
        assert [f.severity for f in report.findings if f.check == "holdout"] == [told]
        assert not report.errors


def test_the_report_is_written_for_people_and_for_programs(removing, corpus, tmp_path):
    plan, _ = removing
    report = check_plan(plan, corpus, Checks(holdout="error"), overlap=True)
    report.write(tmp_path)
    written, values = (
        (tmp_path / "checks.txt").read_text(),
        json.loads((tmp_path / "checks.json").read_text()),
    )
    assert written.startswith(f"checks of plan {plan.hash[:12]}: 1 error, 0 warnings, 0 notes\n")
    assert report.short() in written and len(report.errors) == 1
    assert values["plan"] == plan.hash and values["left_out"] == []
    assert [f["check"] for f in values["findings"]] == ["holdout"]
    assert [row["condition"] for row in values["overlap"]] == ["c", "c", "c", "c"]
    assert values["capacity"]["experiments"]["c"]["tokens"] == 9
    quick = check_plan(plan, corpus, Checks())
    assert quick.overlap is None and "--check=overlap" in quick.short().splitlines()[-1]


def test_a_large_new_plan_leaves_out_what_takes_long_and_says_so(removing, corpus):
    plan, texts = removing
    size = int(texts.length[~texts.removed].sum())
    large = Checks(similar_up_to=size - 1)
    told = check_plan(plan, corpus, large, new=True).short()
    assert "not checked: near-duplicate texts (run with --check)" in told
    for report in (
        check_plan(plan, corpus, large),
        check_plan(plan, corpus, Checks(similar_up_to=size), new=True),
    ):
        assert "near-dup" not in report.short()
