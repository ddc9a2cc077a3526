import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from data.composed import HOST, compose, digest, digests, hashes

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.order import Order
from ttoaa.planning.injection import Overlay

# The corpus has 139 training windows of 32 tokens, so epochs end inside the steps 17 and 34.
BOUNDARY = 17
LENGTH, BATCH, STEPS = 32, 8, 40


@pytest.fixture(scope="module")
def load(corpus, tiny_study, tiny_plan):
    def load(plan=tiny_plan, transforms=(), **options):
        order = Order(**tiny_plan.contents["order"])
        overlay = [Overlay(plan, corpus)] if plan else []
        return batches(corpus, order, tiny_study.geometry, [*overlay, *transforms], **options)

    return load


@pytest.fixture(scope="module")
def by_hand(corpus, tiny_plan):
    """(tokens, arms) int[steps, B, L] of the run, composed from the files with plain NumPy."""

    def windows(split):
        shards = sorted(corpus.folder.glob(f"{split}-*.bin"))
        parts = [np.fromfile(path, "<u2") for path in shards]
        return np.concatenate([p[: len(p) // LENGTH * LENGTH].reshape(-1, LENGTH) for p in parts])

    train, reserve = windows("train"), windows("reserve")
    assert BOUNDARY * BATCH < len(train) < (BOUNDARY + 1) * BATCH
    order = Order(**tiny_plan.contents["order"])
    return compose(train, reserve, order.windows(np.arange(STEPS * BATCH)), tiny_plan)


@pytest.fixture(scope="module")
def expected(by_hand):
    return digests(*by_hand)


# Rows that each host loads; which they are follows from how the batch is laid out over devices.
SHARES = {
    "one": [range(8)],
    "two": [range(4), range(4, 8)],
    "four": [range(k, k + 2) for k in (0, 2, 4, 6)],
    "interleaved": [[0, 2, 4, 6], [1, 3, 5, 7]],
    "two blocks each": [np.array([0, 1, 4, 5]), np.array([2, 3, 6, 7])],
    "uneven": [[0, 3, 4, 7], [1], [2, 5, 6]],
    "rows on two hosts": [range(4), range(4), range(4, 8), range(4, 8)],
}


def test_every_batch_is_what_numpy_composes(load, by_hand):
    tokens, arms = by_hand
    for step, batch in enumerate(load()):
        assert batch["step"] == step
        assert batch["tokens"].dtype == np.int32 and batch["arms"].dtype == np.uint16
        np.testing.assert_array_equal(batch["position"], step * BATCH + np.arange(BATCH))
        np.testing.assert_array_equal(batch["tokens"], tokens[step])
        np.testing.assert_array_equal(batch["arms"], arms[step])
    assert step == STEPS - 1


def test_the_tiny_plan_has_what_the_tests_need(by_hand, tiny_plan):
    """Every arm, whole rows of the reserve among them, and edits in every epoch."""
    _, arms = by_hand
    assert set(np.unique(arms)) == {0, *(arm["id"] for arm in tiny_plan.arms)}
    assert (arms > 0).all(axis=2).sum() == (tiny_plan.columns["kind"] == 1).sum() == 8 + 3
    for part in (arms[:BOUNDARY], arms[BOUNDARY + 1 : 34], arms[35:]):
        assert part.any()


# Each share from the start and from within, and each number of threads at every kind of step.
CASES = [(name, 0, (0, BOUNDARY, STEPS - 1)) for name in SHARES] + [
    ("uneven", 0, (1, BOUNDARY - 1, BOUNDARY + 1, STEPS)),
    ("two", 1, (1, BOUNDARY + 1, STEPS - 1)),
    ("uneven", 4, (0, BOUNDARY - 1, BOUNDARY, STEPS)),
]


@pytest.mark.parametrize(("share", "threads", "starts"), CASES)
def test_hosts_threads_and_resume_points_give_the_same_batches(
    load, expected, share, threads, starts
):
    for start in starts:
        hosts = [load(rows=rows, start=start, threads=threads) for rows in SHARES[share]]
        assert hashes(hosts) == expected[start:]


def test_worker_processes_give_the_same_batches(load, expected):
    assert hashes([load(workers=2)]) == expected


def test_separate_processes_with_settings_of_their_own(
    corpus_folder, tiny_plan, expected, tmp_path
):
    """Two hosts, uneven shares, other threads and workers; one is restarted inside an epoch."""
    jobs = [
        ((0, 3), {"threads": 0}),
        ((3, 8), {"threads": 4, "stop": BOUNDARY}),
        ((3, 8), {"threads": 1, "start": BOUNDARY, "workers": 1}),
    ]
    running = []
    for number, ((first, last), options) in enumerate(jobs):
        command = [sys.executable, "-c", HOST, corpus_folder, tiny_plan.folder]
        command += [str(first), str(last), json.dumps(options)]
        with open(tmp_path / f"{number}.npz", "wb") as out:
            running.append(subprocess.Popen(command, stdout=out))
    assert [process.wait(timeout=60) for process in running] == [0, 0, 0]
    one, before, after = (np.load(tmp_path / f"{number}.npz") for number in range(3))
    other = {name: np.concatenate([before[name], after[name]]) for name in one.files}
    names = ("tokens", "arms", "position")
    joined = [np.concatenate([one[name], other[name]], axis=1) for name in names]
    assert [digest(*step) for step in zip(*joined, strict=True)] == expected


def test_the_epochs_differ_and_no_row_is_of_the_reserve(load, corpus):
    """Without a plan the run is the training windows in order, each once an epoch."""
    order = Order(0, corpus.num_windows("train", LENGTH))
    rows = np.concatenate([batch["tokens"] for batch in load(None)])
    first, second = rows[:139], rows[139:278]
    np.testing.assert_array_equal(
        rows, corpus.windows("train", order.windows(np.arange(320)), LENGTH)
    )
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(np.sort(first.view("V128"), 0), np.sort(second.view("V128"), 0))


def test_a_control_batch_differs_only_where_arms_are(load):
    for run, control in zip(load(), load(None), strict=True):
        assert not control["arms"].any()
        same = run["arms"] == 0
        np.testing.assert_array_equal(run["tokens"][same], control["tokens"][same])


@pytest.mark.parametrize(
    "rows", [range(0), range(0, 9), range(-1, 3), range(8, 9), [0, 0], [1, 0], range(7, -1, -1)]
)
def test_rows_that_are_no_part_of_a_batch_are_refused(load, rows):
    with pytest.raises(ValueError, match="not an ascending part of a batch of 8"):
        load(rows=rows)


@pytest.mark.parametrize(("start", "stop"), [(-1, None), (41, None), (0, 41), (5, 4)])
def test_steps_outside_the_run_are_refused(load, start, stop):
    with pytest.raises(ValueError, match="outside the run of 40"):
        load(start=start, stop=stop)


def test_the_run_ends_after_its_last_step(load):
    assert [batch["step"] for batch in load(start=38)] == [38, 39]
    assert list(load(start=40)) == []
    assert [batch["step"] for batch in load(start=3, stop=5)] == [3, 4]


@pytest.mark.parametrize("threads", [0, 1])
def test_writing_into_a_batch_reaches_nothing_else(corpus_folder, load, expected, threads):
    """Neither the mapped corpus nor another batch, of this or a later loader."""
    before = {path: path.read_bytes() for path in corpus_folder.glob("*.bin")}
    loaded = load(threads=threads)
    for batch in itertools.islice(loaded, 5):
        batch["tokens"][...] = 7
        batch["arms"][...] = 7
    rest = [{**batch} for batch in loaded]
    assert hashes([rest]) == expected[5:]
    assert hashes([load(threads=threads)]) == expected
    assert {path: path.read_bytes() for path in corpus_folder.glob("*.bin")} == before
    Corpus.open(corpus_folder, verify=True)


def test_transforms_see_the_runs_step_and_the_share_after_the_edits(load, by_hand):
    seen = []

    def mark(step, batch):
        seen.append((step, batch["position"][0]))
        batch["marked"] = batch["tokens"] + step
        return batch

    def double(step, batch):
        batch["marked"] = batch["marked"] * 2
        return batch

    loaded = load(start=21, stop=23, rows=range(4, 6), threads=0, transforms=(mark, double))
    for step, batch in zip((21, 22), loaded, strict=True):
        np.testing.assert_array_equal(batch["marked"], (by_hand[0][step, 4:6] + step) * 2)
    assert seen == [(21, 21 * 8 + 4), (22, 22 * 8 + 4)]


def test_a_plan_without_edits_changes_nothing(plan_of, load):
    empty = plan_of(())
    assert len(empty.columns["position"]) == 0 and len(empty.tokens) == 0
    assert hashes([load(empty)]) == hashes([load(None)])


def test_only_the_edits_of_some_steps_are_looked_at(corpus, tiny_plan, monkeypatch):
    """The cost of a batch does not grow with the plan: it reads a slice of each column."""
    asked = []

    class Watched:
        tokens = tiny_plan.tokens
        columns = tiny_plan.columns
        arms = tiny_plan.arms
        geometry = tiny_plan.geometry

        def between(self, first, last):
            asked.append((first, last))
            return tiny_plan.between(first, last)

    monkeypatch.setattr("ttoaa.planning.injection._LOOKED_UP", 31)  # three batches of 8
    overlay = Overlay(Watched(), corpus)

    def show(step, rows):
        share = np.asarray(rows)
        tokens = np.zeros((len(share), LENGTH), np.int32)
        arms = np.zeros(tokens.shape, np.uint16)
        overlay(step, {"position": step * 8 + share, "tokens": tokens, "arms": arms})

    for step in (3, 4, 5, 4):
        show(step, range(2, 6))
    assert asked == [(26, 46)]
    show(6, range(2, 6))
    show(6, range(6))  # another share
    assert asked == [(26, 46), (50, 70), (48, 70)]
