"""Names of the things in a problem: hierarchies of four category levels.

A level has five lists of 20 names. A name is a modifier and a head; a head belongs to one list of
one level, so a hierarchy has no duplicate names.
"""

import dataclasses
from collections.abc import Sequence
from typing import Annotated

import gin

from ttoaa.config_fields import AtLeast, AtMost, config_class

LISTS, LIST_SIZE, LEVELS = 5, 20, 4
ListSize = Annotated[int, AtLeast(4), AtMost(LIST_SIZE)]
"""Number of names taken from each list; a layer holds up to four items."""


@dataclasses.dataclass(frozen=True)
class Hierarchy:
    """Categories from the containing to the contained, and the names in each."""

    categories: tuple[str, ...]
    """str[4]"""
    names: tuple[tuple[tuple[str, ...], ...], ...]
    """str[4][lists][names]: a problem takes the names of a level from one list."""


_MODIFIERS = {
    "District": "North South East West Upper Lower Old New Inner Outer River Harbour Hill Valley "
    "Garden Market Bridge Castle Mill Station",
    "Zoo": "Amber Brown Crimson Dusky Emerald Frosted Golden Hazel Ivory Jade Lilac Maroon Night "
    "Olive Pearl Ruby Silver Tawny Umber White",
    "School": "Bright Calm Daring Early Fair Gentle Happy Ideal Jolly Keen Lively Merry Noble "
    "Orderly Proud Quiet Ready Steady True Wise",
    "Ecosystems": "Arid Boreal Coastal Deep Eastern Fertile Glacial Humid Inland Karst Lunar Misty "
    "Northern Open Polar Rainy Shaded Tidal Windy Young",
}
_HEADS = {
    "District": (
        ("District", "Quarter Borough Ward Parish Precinct"),
        ("Supermarket", "Grocer Bazaar Superstore Cornershop Emporium"),
        ("Product", "Soup Bread Cheese Salad Pie"),
        ("Ingredient", "Salt Flour Butter Pepper Syrup"),
    ),
    "Zoo": (
        ("Zoo", "Menagerie Safari Wildpark Sanctuary Vivarium"),
        ("Enclosure", "Aviary Terrarium Paddock Aquarium Cage"),
        ("Animal", "Parrot Lizard Antelope Otter Lynx"),
        ("Bone", "Rib Femur Skull Vertebra Ulna"),
    ),
    "School": (
        ("School", "Academy College Lyceum Institute Seminary"),
        ("Classroom", "Laboratory Studio Workshop Hall Library"),
        ("Backpack", "Rucksack Satchel Daypack Briefcase Tote"),
        ("Stationery", "Pencil Ruler Notebook Eraser Compass"),
    ),
    "Ecosystems": (
        ("Ecosystem", "Forest Desert Lagoon Tundra Savanna"),
        ("Creature", "Beetle Heron Salamander Fox Crab"),
        ("Organ", "Heart Liver Lung Kidney Brain"),
        ("Cell", "Neuron Platelet Myocyte Osteoblast Lymphocyte"),
    ),
}


def _full() -> tuple[Hierarchy, ...]:
    return tuple(
        Hierarchy(
            categories=tuple(category for category, _ in levels),
            names=tuple(
                tuple(tuple(f"{m} {head}" for m in _MODIFIERS[key].split()) for head in heads)
                for heads in (words.split() for _, words in levels)
            ),
        )
        for key, levels in _HEADS.items()
    )


FULL = _full()
"""Four hierarchies: 1,600 names."""
SHORT = Hierarchy(
    categories=("Box", "Bag", "Tin", "Jar"),
    names=tuple(
        tuple(
            tuple(f"{consonant}{vowel}{end}" for vowel in "aeiou" for consonant in consonants)
            for end in ("", "n", "r", "s", "t")
        )
        for consonants in ("BCDF", "GHKL", "MNPR", "STVZ")
    ),
)
"""One hierarchy of 400 names: a list of two letters and four of three letters at each level."""


@gin.configurable
@config_class
class Names:
    """How many hierarchies problems use, and how many lists and names of each level."""

    hierarchies: Annotated[int, AtLeast(1), AtMost(len(FULL))] = len(FULL)
    lists: Annotated[int, AtLeast(1), AtMost(LISTS)] = LISTS
    names: ListSize = LIST_SIZE

    def get(self) -> Sequence[Hierarchy]:
        return [
            Hierarchy(
                h.categories,
                tuple(tuple(x[: self.names] for x in n[: self.lists]) for n in h.names),
            )
            for h in FULL[: self.hierarchies]
        ]


@gin.configurable
@config_class
class ShortNames:
    """Names of two letters, for tiny models and short rows; with more lists, also of three."""

    names: ListSize = LIST_SIZE
    lists: Annotated[int, AtLeast(1), AtMost(LISTS)] = 1

    def get(self) -> Sequence[Hierarchy]:
        cut = tuple(tuple(x[: self.names] for x in level[: self.lists]) for level in SHORT.names)
        return [Hierarchy(SHORT.categories, cut)]
