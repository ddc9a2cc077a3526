"""The survey against loops over the documents; what is kept of it, and what is refused."""

import dataclasses
import hashlib
import itertools
import os

import numpy as np
import pytest

from ttoaa.data.prepare import document_statistics
from ttoaa.data.sources.base import all_documents, keyed_fraction
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.tokenizer import TokenIds

MARK = "\n%%%\n"


@pytest.fixture
def source(tmp_path):
    """Six files of 0 to 40 documents, 121 in all."""
    rng = np.random.default_rng(3)
    for name, number in zip("abcdef", (7, 40, 0, 1, 33, 40), strict=True):
        texts = (" ".join(rng.choice(["ein", "zwei", "drei☃"], 30)) for _ in range(number))
        (tmp_path / f"{name}.txt").write_text(MARK.join(texts))
    return TextFiles([str(tmp_path)], separator=MARK)


def surveyed(source, folder, size=1):
    groups = document_statistics.group_units(source, folder, size)
    for group in groups:
        list(document_statistics.TakeSurvey(source)(group))
    return groups


def test_what_is_counted_is_what_a_loop_counts(source, tmp_path):
    whole = document_statistics.merge_surveys(surveyed(source, tmp_path / "s"), 0.25)
    texts = [text for _, text in all_documents(source)]
    assert len(texts) == 121
    split = {"train": [], "reserve": []}
    for text in texts:
        split["reserve" if keyed_fraction("reserve", text) < 0.25 else "train"].append(text)
    assert whole.documents == {name: len(found) for name, found in split.items()}
    assert whole.characters == {name: sum(map(len, found)) for name, found in split.items()}
    assert whole.most_tokens == sum(len(text.encode()) for text in texts) > sum(map(len, texts))
    outer = hashlib.sha256()
    for unit in source.units():
        inner = hashlib.sha256()
        for _, text in source.documents(unit):
            inner.update(len(text.encode()).to_bytes(8, "little") + text.encode())
        outer.update(inner.digest())
    assert whole.sha256 == outer.hexdigest()


def test_grouping_changes_nothing(source, tmp_path):
    alone, together = surveyed(source, tmp_path / "s"), surveyed(source, tmp_path / "s", 10**9)
    assert len(alone) == 5 and len(together) == 1  # the empty file goes with the next
    assert document_statistics.merge_surveys(alone, 0.25) == document_statistics.merge_surveys(
        together, 0.25
    )


def greedy(sizes, characters):
    """(document, documents) of every part, one document after another."""
    parts, begun, size = [], 0, 0
    for document, n in enumerate(sizes):
        size += n
        if size >= characters:
            parts.append((begun, document + 1 - begun))
            begun, size = document + 1, 0
    return parts + [(begun, len(sizes) - begun)] * (begun < len(sizes))


@pytest.mark.parametrize("seed", range(20))
def test_parts_are_cut_as_by_a_loop_over_documents(seed):
    rng = np.random.default_rng(seed)
    groups = [rng.integers(0, 30, rng.integers(0, 20)) for _ in range(rng.integers(1, 12))]
    first = np.cumsum([0, *map(len, groups)])
    for characters in (1, 7, 29, 100, 10**6):
        cuts = list(document_statistics._cut(groups, characters))
        assert [cut.number for cut in cuts] == list(range(len(cuts)))
        found = [(first[cut.group] + cut.start, cut.documents) for cut in cuts]
        assert found == greedy(np.concatenate(groups).tolist(), characters)
        assert all(0 <= cut.start < len(groups[cut.group]) for cut in cuts)


@pytest.mark.parametrize("size", [1, 5_000, 10**9])
def test_reading_may_begin_at_any_document(source, tmp_path, size):
    groups = surveyed(source, tmp_path / "s", size)
    everything = [(*d, keyed_fraction("reserve", d[1])) for d in all_documents(source)]
    first = 0
    for index, group in enumerate(groups):
        number = int(document_statistics.Counts.load(group.path).documents_u.sum())
        for start in {0, 1, number // 2, number - 1}:
            assert (
                list(document_statistics.read_documents(source, groups, index, start))
                == everything[first + start :]
            )
        first += number
    assert first == 121


def test_reading_past_a_group_begins_in_the_right_unit(source, tmp_path):
    """Units before the first document asked for are not opened."""
    groups = surveyed(source, tmp_path / "s", 10**9)
    os.truncate(source.units()[0], 10)
    assert len(list(document_statistics.read_documents(source, groups, 0, 7))) == 114
    with pytest.raises(ValueError, match=r"a\.txt.* changed since it was surveyed"):
        next(document_statistics.read_documents(source, groups, 0, 0))


@pytest.mark.parametrize("change", ["another", "shorter", "longer"])
def test_a_file_that_changed_is_refused_and_what_was_added_left_out(source, tmp_path, change):
    groups = surveyed(source, tmp_path / "s")
    path = tmp_path / "b.txt"
    texts = path.read_text().split(MARK)
    changed = {
        "another": [*texts[:20], "neu", *texts[21:]],
        "shorter": texts[:-1],
        "longer": [*texts, "neu"],
    }
    path.write_text(MARK.join(changed[change]))
    if change == "longer":
        assert "neu" not in {
            text for _, text, _ in document_statistics.read_documents(source, groups, 0, 0)
        }
    else:
        with pytest.raises(
            ValueError, match=r"b\.txt.* changed since it was surveyed: start again"
        ):
            list(document_statistics.read_documents(source, groups, 0, 0))


def test_a_survey_is_found_again_while_files_and_source_are_the_same(source, tmp_path):
    before = surveyed(source, tmp_path / "s")
    assert document_statistics.group_units(source, tmp_path / "s", 1) == before
    os.utime(tmp_path / "d.txt", (1, 1))
    after = document_statistics.group_units(source, tmp_path / "s", 1)
    assert [old.path == new.path for old, new in zip(before, after, strict=True)] == [
        *(True, True, False, True, True)  # "d" goes with the empty "c"
    ]
    other = document_statistics.group_units(
        dataclasses.replace(source, separator="%"), tmp_path / "s", 1
    )
    assert not {group.path for group in before} & {group.path for group in other}


@dataclasses.dataclass(frozen=True)
class Numbered:
    """Three units that are no files."""

    description = "numbers"

    def units(self):
        return ("x", "y", "z")

    def documents(self, unit):
        for k in range(10):
            yield f"{unit}:{k}", f"{unit} {k}"


def test_units_that_are_no_files_stay_alone_and_are_read_anew(tmp_path):
    first, second = (document_statistics.group_units(Numbered(), tmp_path, 10**9) for _ in range(2))
    assert [group.units for group in first] == [("x",), ("y",), ("z",)]
    assert not {group.path for group in first} & {group.path for group in second}


def test_a_survey_tells_of_every_document_as_it_is_read(source, tmp_path):
    (whole,) = document_statistics.group_units(source, tmp_path / "s", 10**9)
    steps = document_statistics.TakeSurvey(source)(whole)
    assert list(itertools.islice(steps, 5)) == [1] * 5
    assert not whole.path.exists()
    assert sum(steps) == 116 and whole.path.exists()


@dataclasses.dataclass(frozen=True)
class Mixed:
    """Texts that JSON writes with escapes or on several lines, and token ids."""

    description = "mixed"

    def units(self):
        return ("x", "y")

    def documents(self, unit):
        for k, text in enumerate(('"\\ \x00\x85\u2028\r\n\t', "☃𠀀", "", "[1, 2]")):
            yield f"{unit}:{k}", text
            yield f"{unit}:{k}", TokenIds(np.array([k, 300, 2**31 - 1], np.int32), "abc")


def test_a_sample_reads_back_as_it_was_drawn(tmp_path):
    groups = tuple(surveyed(Mixed(), tmp_path / "s"))
    task = document_statistics.TakeSample(Mixed(), groups, 0.0, 1.0, tmp_path)
    for index in range(2):
        documents = [text for _, text in Mixed().documents("x")]
        assert sum(task(index)) == sum(map(len, documents))
        sample = task.texts(index)
        assert sample[::2] == documents[::2]
        for found, given in zip(sample[1::2], documents[1::2], strict=True):
            assert found.vocabulary == given.vocabulary and found.encode() == given.encode()
            assert found.ids.dtype == np.int32
