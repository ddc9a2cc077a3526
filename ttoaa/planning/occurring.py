"""Places of a run where token sequences occur in the corpus, for items that are to go there."""

from collections.abc import Sequence

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.order import Order
from ttoaa.data.scan import Occurrences, scan
from ttoaa.data.scan_patterns import Patterns
from ttoaa.planning.placement import AtOccurrences

WHERE = ("after", "over", "row")


def scan_run(corpus: Corpus, order: Order, geometry: Geometry, patterns: Patterns) -> Occurrences:
    """Occurrences in the training windows; of windows in the order of a file, those in use."""
    stop = order.num_windows
    if order.first_in_order:
        stop = min(stop, geometry.sequences)
    return scan(corpus, "train", patterns, geometry.length, stop * geometry.length)


def at_occurrences(
    sequences: Sequence[np.ndarray],
    corpus: Corpus,
    order: Order,
    geometry: Geometry,
    where: str = "after",
) -> AtOccurrences:
    """Every place, in all epochs that the run reaches, at which one of int[n] sequences occurs.

    An item goes right 'after' the occurrence, 'over' it (from its first token on), or to the start
    of the 'row' that has it.
    """
    if where not in WHERE:
        raise ValueError(f"an item goes to one of {WHERE}, not {where!r}")
    length, patterns = geometry.length, Patterns(sequences)
    found = scan_run(corpus, order, geometry, patterns)
    windows, offsets = np.divmod(found.where, length)
    if where == "after":
        offsets = offsets + patterns.lengths[found.pattern]
    elif where == "row":
        offsets = np.zeros_like(offsets)
    windows, offsets = np.unique(np.stack([windows, offsets]), axis=1)
    inside = offsets < length
    positions, which = order.positions(windows[inside], geometry.sequences)
    return AtOccurrences(positions, offsets[inside][which])
