"""The loader over another run's token files and order: every way of loading gives its batches."""

import dataclasses

import numpy as np
import pytest
from data.composed import compose, digests, hashes

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import batches
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.order import Order
from ttoaa.data.vocabulary import ExistingTokenizer
from ttoaa.planning.injection import Overlay
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir

LENGTH, BATCH, STEPS, FIRST, TRAIN = 32, 8, 40, 5, 139
BOUNDARY = 17  # 139 windows: epochs end inside the steps 17 and 34


@pytest.fixture(scope="module")
def olmo(corpus, tiny_study, tmp_path_factory):
    """(corpus, plan, instances, order): token files cut by hand, and a plan on them."""
    root = tmp_path_factory.mktemp("olmo")
    parts = [np.fromfile(path, "<u2") for path in sorted(corpus.folder.glob("*.bin"))]
    paths = [str(root / f"part-{number}.npy") for number in range(len(parts))]
    for path, part in zip(paths, parts, strict=True):
        part.astype("<u4").tofile(path)
    cut = [part[: len(part) // LENGTH * LENGTH].reshape(-1, LENGTH) for part in parts]
    instances = np.concatenate(cut)
    order = np.arange(len(instances), dtype="<u4")
    np.random.Generator(np.random.PCG64(6198)).shuffle(order)
    order[:-2].tofile(root / "global_indices.npy")
    config = OlmoCorpus(
        files=paths,
        order=str(root / "global_indices.npy"),
        tokenizer=ExistingTokenizer(str(corpus.folder / "tokenizer.json"), vocab_size=320),
        eos_id=corpus.eos_id,
        length=LENGTH,
        first=FIRST,
        train_windows=TRAIN,
    )
    workdir = Workdir(root / "study")
    config.make(workdir.corpus)
    plan, _ = StudyHandle(dataclasses.replace(tiny_study, prepare=config), workdir).make_plan()
    return Corpus.open(workdir.corpus), plan, instances, order[:-2].astype(np.int64)


@pytest.fixture(scope="module")
def load(olmo):
    corpus, plan, _, _ = olmo
    order = Order(**plan.contents["order"])
    assert order.first_in_order

    def load(**options):
        return batches(corpus, order, plan.geometry, [Overlay(plan, corpus)], **options)

    return load


@pytest.fixture(scope="module")
def by_hand(olmo):
    """(tokens, arms) int[steps, B, L]: the file's order first, then the keyed epochs."""
    _, plan, instances, order = olmo
    train, reserve = instances[order[FIRST : FIRST + TRAIN]], instances[order[FIRST + TRAIN :]]
    later = Order(0, TRAIN).windows(np.arange(TRAIN, STEPS * BATCH))
    return compose(train, reserve, np.concatenate([np.arange(TRAIN), later]), plan)


def test_every_batch_is_what_numpy_composes(load, by_hand):
    tokens, arms = by_hand
    assert {0, 1, 2} < set(np.unique(arms).tolist())
    for step, batch in enumerate(load()):
        np.testing.assert_array_equal(batch["tokens"], tokens[step])
        np.testing.assert_array_equal(batch["arms"], arms[step])
    assert step == STEPS - 1


def test_what_no_experiment_touched_is_olmos_batch(load, olmo):
    _, _, instances, order = olmo
    for batch in load(stop=BOUNDARY):
        untouched = batch["arms"] == 0
        expected = instances[order[FIRST + batch["position"]]]
        np.testing.assert_array_equal(batch["tokens"][untouched], expected[untouched])


def test_no_row_of_a_run_is_of_the_reserve_or_of_what_was_trained_on_before(olmo):
    corpus, plan, instances, order = olmo
    alone = Order(**plan.contents["order"])
    rows = np.concatenate([b["tokens"] for b in batches(corpus, alone, plan.geometry)])
    ours = sorted(map(bytes, instances[order[FIRST : FIRST + TRAIN]].astype(np.int32)))
    first, second = rows[:TRAIN], rows[TRAIN : 2 * TRAIN]
    assert sorted(map(bytes, first)) == sorted(map(bytes, second)) == ours
    assert not np.array_equal(first, second)


SHARES = {
    "one": [range(8)],
    "four": [range(k, k + 2) for k in (0, 2, 4, 6)],
    "uneven, one row on two": [[0, 3, 4, 7], [1, 4], [2, 5, 6]],
}


@pytest.mark.parametrize(
    ("share", "threads"), [("one", 0), ("four", 0), ("uneven, one row on two", 2)]
)
def test_hosts_threads_and_resume_points_give_the_same_batches(load, by_hand, share, threads):
    expected = digests(*by_hand)
    for start in (0, BOUNDARY + 1, STEPS - 1):
        hosts = [load(rows=rows, start=start, threads=threads) for rows in SHARES[share]]
        assert hashes(hosts) == expected[start:]
