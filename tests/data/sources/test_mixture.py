"""Several sources as one, compared with sums taken by hand at every prefix."""

import collections
import dataclasses
import itertools
import math

import numpy as np
import pytest

from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.mixture import Mixture, Pool


@dataclasses.dataclass(frozen=True)
class Written:
    """Documents of given lengths in units of ten, each another text."""

    name: str
    lengths: tuple[int, ...]

    @property
    def description(self):
        return self.name

    def units(self):
        return [str(k) for k in range(0, len(self.lengths), 10)]

    def documents(self, unit):
        for k, length in enumerate(self.lengths[int(unit) : int(unit) + 10], int(unit)):
            yield f"{self.name}:{k}", f"{self.name}{k:04d}".ljust(length, ".")


def source(name, count, seed):
    lengths = np.random.default_rng(seed).integers(6, 400, count)
    return Written(name, tuple(lengths.tolist()))


A, B, C = source("a", 300, 0), source("b", 40, 1), source("c", 25, 2)


def drawn(mixture):
    return [(name[0], text) for name, text in all_documents(mixture)]


@pytest.mark.parametrize("by", ["characters", "documents"])
def test_every_prefix_follows_the_weights(by):
    weights = {"a": 0.5, "b": 0.2, "c": 0.3}
    sources = (A, B, C)
    longest = {s.name: max(s.lengths) if by == "characters" else 1 for s in sources}
    given = collections.Counter()
    mixture = Mixture(sources, [5, 2, 3], by)
    for name, text in drawn(mixture):
        given[name] += len(text) if by == "characters" else 1
        total = given.total()
        for each, weight in weights.items():
            assert given[each] - weight * total <= longest[each]
            assert weight * total - given[each] <= weight * sum(longest.values())
    assert given["c"] == (sum(C.lengths) if by == "characters" else 25)  # the first to end


def test_each_source_keeps_its_order_and_reading_again_is_the_same():
    mixture = Mixture((A, B), (3, 1), when_one_ends="go on")
    found = drawn(mixture)
    assert found == drawn(mixture)
    for each in (A, B):
        expected = [text for _, text in all_documents(each)]
        assert [text for name, text in found if name == each.name] == expected


def test_it_stops_where_the_first_source_ends():
    found = drawn(Mixture((A, B), (1, 1)))
    assert [name for name, _ in found].count("b") == len(B.lengths)
    assert abs(sum(len(t) for n, t in found if n == "a") - sum(B.lengths)) <= 400


def test_it_repeats_until_all_has_been_read_once():
    mixture = Mixture((A, B), (1, 1), "documents", when_one_ends="repeat")
    found = drawn(mixture)
    of_b = [text for name, text in found if name == "b"]
    assert [name for name, _ in found].count("a") == 300
    assert of_b == list(itertools.islice(itertools.cycle(of_b[:40]), 300))
    assert [(d.source, d.documents, d.passes) for d in mixture.drawn] == [
        ("a", 300, 1),
        ("b", 300, 8),
    ]


def test_it_tells_what_each_source_gave():
    mixture = Mixture((A, B), (1, 2), when_one_ends="go on")
    assert mixture.drawn == ()
    found = drawn(mixture)
    for each in mixture.drawn:
        texts = [text for name, text in found if name == each.source]
        assert (each.documents, each.characters) == (len(texts), sum(map(len, texts)))


def test_a_mixture_of_mixtures():
    inner = Mixture((B, C), (1, 1), "documents", when_one_ends="go on")
    found = drawn(Mixture((A, inner), (1, 1), "documents", when_one_ends="go on"))
    assert "".join(name for name, _ in found[:8]) == "abacabac"


def test_a_pool_takes_each_document_as_often_as_its_rate_says():
    pool = Pool((A, B), (0.3, 2.5))
    assert pool.units()[:2] == ["0:0", "0:10"] and pool.units()[-1] == "1:30"
    counts = collections.Counter(text for _, text in all_documents(pool))
    assert counts == collections.Counter(text for _, text in all_documents(pool))
    few = sum(text.startswith("a") for text in counts)
    assert abs(few - 90) < 4 * math.sqrt(300 * 0.3 * 0.7)
    often = [counts[text] for _, text in all_documents(B)]
    assert set(often) == {2, 3} and abs(often.count(3) - 20) < 4 * math.sqrt(10)
    assert all(counts[text] == 1 for _, text in all_documents(A) if text in counts)


def test_a_larger_rate_takes_more_of_the_same():
    few, many = ({t for _, t in all_documents(Pool((A,), (rate,)))} for rate in (0.2, 0.6))
    assert few < many


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mixture((A, B), (1,)), "2 sources and 1 weights"),
        (lambda: Pool((A,), (1, 2)), "1 sources and 2 rates"),
    ],
)
def test_bad_settings_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_source_without_documents_cannot_be_repeated():
    mixture = Mixture((A, Written("none", ())), (1, 1), when_one_ends="repeat")
    with pytest.raises(ValueError, match="none has no documents to repeat"):
        drawn(mixture)


def test_half_a_surrogate_pair_in_a_pool_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800"}\n')
    with pytest.raises(ValueError, match=r"a\.jsonl:1 is not valid Unicode"):
        list(all_documents(Pool([TextFiles([str(tmp_path / "a.jsonl")])], [0.5])))
