"""Rows with noise in a plan: placement, loader, audit, and what `--show` prints."""

import dataclasses

import numpy as np
import pytest
from fakes import Given, Planted

from ttoaa.data.geometry import Geometry
from ttoaa.planning.audit import compare
from ttoaa.planning.audit.compare import load_shares
from ttoaa.planning.audit.reference_reader import PlainReader, differences
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.inspect import PlanView
from ttoaa.planning.items import NOISE, Intervention, Item, Items, Noise
from ttoaa.planning.noise import NOISE_KEY, NOISE_SCALE, NoiseRows, row_keys
from ttoaa.planning.placement import Explicit, Uniform, WholeBatch
from ttoaa.runs import SUBSETS
from ttoaa.workdir import Workdir

GEOMETRY = Geometry(length=32, batch=8, steps=40)
SHARED = Noise(0.5, relative=False, exclusive=False)


def batch_of(step, noise, condition="c", rows=range(8)):
    """Items that perturb these rows of one batch."""
    return tuple(
        Item(f"{step}-{row}", condition, 1, noise=noise, placement=WholeBatch([step], row))
        for row in rows
    )


@pytest.fixture(scope="module")
def noisy(plan_of):
    """Texts anywhere, a whole batch with exclusive noise, and rows of one that are shared."""
    noise = Given("noise", items=batch_of(11, Noise(0.3)) + batch_of(5, SHARED, "d", (1, 2, 6)))
    return plan_of([Planted("planted", repetitions=(0, 40)), noise])


def place(**items):
    done = {name: Intervention(own, np.empty(0, np.int64)) for name, own in items.items()}
    return compile_plan(done, GEOMETRY, 100, {"seed": 3})


def test_exclusive_rows_are_free_of_other_edits_and_shared_ones_are_not(noisy):
    columns = {name: np.asarray(column) for name, column in noisy.columns.items()}
    step, noise = columns["position"] // 8, columns["kind"] == NOISE
    assert (columns["length"][noise & (step == 11)] == 32).all() and (noise[step == 11]).all()
    assert (columns["length"][noise & (step == 5)] == 0).all()
    arms = {arm["condition"]: arm for arm in noisy.arms if arm["experiment"] == "noise"}
    assert arms["c"]["noise"] == dataclasses.asdict(Noise(0.3)) and arms["c"]["tokens"] == 256
    assert (arms["d"]["edits"], arms["d"]["tokens"]) == (3, 0)
    texts = tuple(Item(f"t{k}", "t", 10, np.ones(9, int)) for k in range(60))
    crowded = place(t=texts, n=batch_of(5, SHARED))
    assert np.sum(np.asarray(crowded.columns["position"]) // 8 == 5) > 8
    alone = place(t=texts)
    others = np.asarray(crowded.columns["kind"]) != NOISE
    for name in ("position", "offset", "repetition"):
        np.testing.assert_array_equal(crowded.columns[name][others], alone.columns[name])


def test_a_block_of_items_is_the_same_plan(noisy):
    block = Items([f"{k}" for k in range(8)], "c", 1, noise=SHARED, placement=WholeBatch([5], 0))
    single = [dataclasses.replace(i, id=f"{k}") for k, i in enumerate(batch_of(5, SHARED))]
    assert place(n=[block]).hash == place(n=single).hash


BAD = {
    r"a \(item '5-3'\) and b \(item 'x'\): move a away from step 5": {
        "a": batch_of(5, Noise(1.0)),
        "b": [Item("x", "c", 1, np.ones(4, int), placement=Explicit([43], 7))],
    },
    r"two items add noise to the same row for a \(item '5-3'\) and b \(item '5-3'\): move b": {
        "a": batch_of(5, SHARED),
        "b": batch_of(5, Noise(1.0), rows=[3]),
    },
    "item 'x' has noise that shares its row: place it by WholeBatch or Explicit": {
        "a": [Item("x", "c", 1, noise=SHARED, placement=Uniform())]
    },
    "item 'x' has noise of sigma 0": {"a": [Item("x", "c", 1, noise=Noise(0))]},
    "item 'y' has other noise than items of the same condition, 'c'": {
        "a": [Item("x", "c", 1, noise=Noise(1)), Item("y", "c", 1, noise=Noise(2))]
    },
    "items of condition 'c' have different noise, or some none": {
        "a": [
            Items(["x"], "c", 1, noise=Noise(1)),
            Items(["y"], "c", 1, marks=3),
        ]
    },
}


@pytest.mark.parametrize(("message", "items"), BAD.items(), ids=list(BAD))
def test_noise_that_cannot_be_placed_is_refused(message, items):
    with pytest.raises(ValueError, match=message):
        place(**items)


def test_keys_follow_from_seed_and_position_alone():
    keys = row_keys(0, np.arange(1000))
    assert keys.dtype == np.uint32 and len(np.unique(keys, axis=0)) == 1000
    np.testing.assert_array_equal(keys[[7, 3]], row_keys(0, [7, 3]))
    for other in (row_keys(1, np.arange(1000)), row_keys(0, np.arange(1000), fresh=1)):
        assert not (keys == other).all(1).any()
    assert row_keys(0, [5]).tolist() == [[1386068624, 3607944224]]  # of runs that exist


def test_every_host_knows_that_its_step_is_noisy(noisy):
    transform = NoiseRows(noisy)
    for rows in (np.arange(8), np.arange(3, 6), np.array([1])):
        for step in range(40):
            batch = transform(step, {"step": step, "position": step * 8 + rows})
            assert (NOISE_KEY in batch) == (NOISE_SCALE in batch) == (step in (5, 11))
            if step == 5:
                expected = [[0.5, 0] if row in (1, 2, 6) else [0, 0] for row in rows]
                assert batch[NOISE_SCALE].tolist() == expected
                np.testing.assert_array_equal(batch[NOISE_KEY], row_keys(0, 40 + rows))
    assert NoiseRows(noisy, ["noise"]) and not NoiseRows(noisy, ["planted"])


def test_noise_adds_nothing_to_tokens_or_to_other_arms(noisy, corpus):
    for share in load_shares(corpus, noisy, (5, 11)):
        bare = next(iter(load_shares(corpus, noisy, [share.step], overlay=lambda step, b: b)))
        if share.step == 11:
            np.testing.assert_array_equal(share.tokens, bare.tokens)
            assert len(np.unique(share.arms)) == 1 and share.arms.all()


def test_the_audit_derives_which_rows_have_noise(noisy):
    workdir = Workdir(noisy.folder.parent)
    line = compare.audit(workdir, 0, 0, (4, 5, 11), (1, 3))
    assert "no difference, 11 rows with noise" in line
    alone, without = (compare.audit(workdir, 0, 0, (5, 11), name=f"{k}/noise") for k in SUBSETS)
    assert "11 rows with noise" in alone and "rows with noise" not in without
    corpus, folder = workdir.corpus, noisy.folder
    plan = compare.Plan(folder)
    opened = compare.Corpus.open(corpus, verify=False)
    shares = list(load_shares(opened, plan, (4, 5, 11)))
    assert not list(differences(PlainReader(corpus, folder), shares))

    def found(step, change):
        share = next(s for s in shares if s.step == step)
        broken = dataclasses.replace(share, noise=change(share.noise))
        return list(differences(PlainReader(corpus, folder), [broken]))

    assert found(5, lambda noise: None) == [
        "step 5: the loader gives no noise, the plan the opposite"
    ]
    assert len(found(4, lambda noise: np.zeros((8, 4)))) == 1
    for column in range(4):
        one = np.outer(np.arange(8) == 6, np.arange(4) == column)
        broken = found(11, lambda noise, one=one: noise + 0.5 * one)
        assert len(broken) == 1 and broken[0].startswith("step 11 row 6: noise [")


def test_show_names_the_noise_of_a_row(noisy):
    view = PlanView(Workdir(noisy.folder.parent))
    text = view.answer("step=11")
    assert text.startswith("step 11: 8 edits, 100.0%")
    assert "row 0 tokens 0-31  noise/c  item 11-0  copy 1  noise of sigma 0.3 x the RMS" in text
    shared = view.answer("row=41")
    assert "row 1 whole  noise/d  item 5-1  copy 1  noise of sigma 0.5, its tokens are" in shared
    summary = (noisy.folder / "summary.txt").read_text()
    assert "rows with noise on their embeddings" in summary


def test_a_sham_run_has_the_places_without_the_noise(noisy):
    reader = PlainReader(noisy.folder.parent / "corpus", noisy.folder, sham=np.arange(3))
    assert reader.noise(11) is None and reader.step(11)[1].all()
