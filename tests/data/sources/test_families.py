import itertools
from collections import Counter

import pytest

from ttoaa.data.sources.families import Families, WithFamilies

FAMILIES = Families(sizes=(0, 3, 30), families=2, exact=2, characters=90)


def changed_words(a, b):
    pairs = zip(a.split(" "), b.split(" "), strict=True)
    return [place for place, (x, y) in enumerate(pairs) if x != y]


def test_each_family_has_its_copies_and_near_duplicates():
    families = Counter(name.split("/")[0] for name, _ in FAMILIES.copies())
    assert families == {f"{s}-{n}": s + 2 for s in (0, 3, 30) for n in (0, 1)}
    texts = Counter(text for _, text in FAMILIES.copies())
    for passage in FAMILIES.passages():
        assert texts[passage.text] == 2 and 60 <= len(passage.text) <= 91


def test_a_near_duplicate_differs_in_few_words_and_in_the_first_half():
    passages = {f"{p.size}-{p.number}": p.text for p in FAMILIES.passages()}
    kinds = Counter()
    for name, text in FAMILIES.copies():
        base, copy = passages[name.split("/")[0]], int(name.split("/")[1])
        if copy < 2:
            continue
        places = changed_words(base, text)
        assert 1 <= len(places) <= 3 and places[0] < len(base.split(" ")) / 2
        same_letters = base.casefold() == text.casefold()
        numbers = all(base.split(" ")[place].isdecimal() for place in places)
        kind = ("case", "words", "numbers")[(copy - 2) % 3]
        assert (same_letters, numbers) == (kind == "case", kind == "numbers")
        kinds[kind] += 1
    assert set(kinds) == {"case", "words", "numbers"}


def test_unseen_passages_and_those_of_another_key_are_others():
    seen = {text for _, text in FAMILIES.copies()}
    others = FAMILIES.unseen(20)
    assert len({*others}) == 20 and not seen & {*others}
    again = Families(key="b", sizes=(0, 3, 30), families=2, exact=2, characters=90)
    assert not seen & {passage.text for passage in again.passages()}


class Lines:
    """Two documents of numbered lines."""

    description = "lines"

    def units(self):
        return ("a", "b")

    def documents(self, unit):
        yield unit, "".join(f"{unit} line {number:04}\n" for number in range(1000)) + "end"


def test_copies_stand_far_apart_between_lines_that_stay_as_they_were():
    source = WithFamilies(Lines(), FAMILIES, every=300)
    assert source.units() == ("with families",) and "lines, with" in source.description
    documents = list(source.documents("with families"))
    assert documents == list(source.documents("with families"))
    texts, places, kept = {text for _, text in FAMILIES.copies()}, [], []
    for _, document in documents:
        for number, line in enumerate(document.split("\n")):
            (places if line in texts else kept).append(number if line in texts else line)
    assert len(places) == len(FAMILIES.copies())
    assert sum(line.startswith(("a line", "b line")) for line in kept) == 2000
    gaps = [q - p for p, q in itertools.pairwise(places) if q > p]
    assert min(gaps) >= 300 // 12 - 1


def test_a_source_that_is_too_short_is_refused():
    with pytest.raises(ValueError, match=r"room for \d+ of 78 copies"):
        list(WithFamilies(Lines(), FAMILIES, every=3000).documents("with families"))


@pytest.mark.parametrize("change", [{"sizes": ()}, {"sizes": (1, 1)}, {"characters": 5}])
def test_impossible_families_are_refused(change):
    with pytest.raises(ValueError, match=r"Families\."):
        Families(**change)
