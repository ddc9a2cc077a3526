"""Turns interventions into a plan: items into edits, edits into addresses and columns (C3, C4)."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.data.order import mix64
from ttoaa.planning.allocator import PlacementError, Requests, Sweep, Taken, settle
from ttoaa.planning.column_files import Growing, Scratch, Tables, writable
from ttoaa.planning.item_tables import Catalogue, Cataloguer
from ttoaa.planning.items import Intervention
from ttoaa.planning.plan import COLUMNS, Edits, Names, content_hash

Again = Mapping[tuple[str, str, int], int]
"""(experiment, item's id, repetition) to how many times its place is drawn anew."""


@dataclasses.dataclass(frozen=True)
class CompiledPlan(Edits):
    """A plan of which `store` makes a finished one: its folder lacks what only people read."""

    told: dict[str, Any]
    """Its `contents`."""
    digests: dict[str, str]
    """sha256 of every column and of `tokens`."""
    _kept: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def contents(self) -> dict[str, Any]:
        return self.told

    @property
    def hash(self) -> str:
        return content_hash(self.contents, self.digests)


def compile_plan(
    interventions: Mapping[str, Intervention],
    geometry: Geometry,
    vocab_size: int,
    identity: Mapping[str, Any],
    again: Again | None = None,
    folder: pathlib.Path | None = None,
    at_once: int = 1 << 20,
) -> CompiledPlan:
    """Places every edit of every experiment (by name).

    `identity` (seed, fingerprints of corpus, vocabulary and order) becomes part of the hash. What
    is made goes into `folder`, which is empty (see `store.unfinished`), or into one that lives as
    long as the result. `at_once` edits are in memory at a time: it does not change the result.
    Raises ValueError, naming the experiment, for whatever does not fit; drops nothing.
    """
    kept = None
    if folder is None:
        kept = tempfile.TemporaryDirectory(prefix="ttoaa-plan-")
        folder = pathlib.Path(kept.name)
    seed = int(identity["seed"])
    with Tables() as tables:
        cataloguer = Cataloguer(folder, geometry, vocab_size, seed, tables)
        for name in sorted(interventions):
            cataloguer.add(name, interventions[name])
    items = cataloguer.close()
    names = Names(folder, seed, items.counts)
    digests = _place(_Requests(items, names, again or {}), names, geometry, folder, at_once)
    for path in (folder / "scratch").iterdir():
        path.unlink()
    (folder / "scratch").rmdir()
    contents = {
        **identity,
        "geometry": dataclasses.asdict(geometry),
        "experiments": list(items.counts),
        "items": list(items.counts.values()),
        "arms": items.arms,
    }
    return CompiledPlan(folder, contents, {**digests, "tokens": items.tokens}, kept)


class _Requests:
    """What edits ask for, by their numbers: item by item, copy by copy."""

    def __init__(self, items: Catalogue, names: Names, again: Again) -> None:
        self.items = items
        self.count = int(items.first[-1])
        self._repetitions = np.diff(items.first)
        redrawn = sorted((self._edit(names, *who), times) for who, times in again.items())
        self._redrawn = np.array(redrawn, np.int64).reshape(-1, 2)
        self._found = (np.empty(0, np.int64), np.empty(0, np.int64))

    def _edit(self, names: Names, experiment: str, name: str, repetition: int) -> int:
        found = names.items(name, experiment) if experiment in self.items.counts else []
        if not found or not 0 <= repetition < self._repetitions[found[0]]:
            raise ValueError(f"{experiment}: item {name!r} has no copy {repetition} to draw anew")
        if self.items.columns["spread"][found[0]] < 0:
            raise ValueError(
                f"{experiment}: item {name!r} must move, and its placement says where it is"
            )
        return int(self.items.first[found[0]]) + repetition

    def choose_occurrences(self, length: int) -> None:
        """Settles who may only go where something occurs: from then on their places are fixed."""
        items, spread = self.items, self.items.columns["spread"]
        at = np.isin(spread, np.flatnonzero(items.spreads.at))
        if not at.any():
            return
        chosen = np.flatnonzero(at | (spread < 0))
        counts = self._repetitions[chosen]
        edits = np.repeat(items.first[chosen] - (np.cumsum(counts) - counts), counts)
        edits += np.arange(len(edits))
        requests = self(edits)
        turn = requests.turn(length)
        try:
            address = settle(requests, turn, length, Taken(), items.spreads.candidates)
        except PlacementError as error:
            raise PlacementError(str(error), edits[error.edits].tolist()) from None
        lost = np.flatnonzero(address < 0)
        if len(lost):
            raise PlacementError("all places where it may be are taken", edits[lost[:1]].tolist())
        self._found = (edits, address)

    def owner(self, edits: np.ndarray) -> np.ndarray:
        """int64[k]: the items of ascending edits."""
        return np.searchsorted(self.items.first, edits, "right") - 1

    def __call__(self, edits: np.ndarray) -> Requests:
        """Of ascending int64[k] edits."""
        columns, owner = self.items.columns, self.owner(edits)
        repetition = edits - self.items.first[owner]
        with np.errstate(over="ignore"):
            key = columns["key"][owner] + repetition.astype(np.uint64) * np.uint64(
                0xD6E8FEB86659FD93
            )
        wanted, times = self._redrawn.T
        place = np.searchsorted(edits, wanted)
        here = place < len(edits)
        here[here] = edits[place[here]] == wanted[here]
        key[place[here]] ^= mix64(times[here].astype(np.uint64))
        spread, fixed = columns["spread"][owner], np.full(len(edits), -1)
        low, high = np.zeros(len(edits), np.int64), np.ones(len(edits), np.int64)
        at = np.zeros(len(edits), bool)
        free = np.flatnonzero(spread >= 0)
        low[free], high[free], at[free] = self.items.spreads.of(
            spread[free], repetition[free], self._repetitions[owner[free]]
        )
        told = np.flatnonzero(spread < 0)
        fixed[told] = self.items.fixed[columns["place"][owner[told]] + repetition[told]]
        found, address = self._found
        if len(found) and at.any():
            fixed[at] = address[np.searchsorted(found, edits[at])]
            at[:] = False
        length = columns["length"][owner].astype(np.int64)
        return Requests(key=key, length=length, low=low, high=high, fixed=fixed, at=at)


def _place(
    requests: _Requests, names: Names, geometry: Geometry, folder: pathlib.Path, at_once: int
) -> dict[str, str]:
    """Writes columns/ and index/rows.npy; the sha256 of each column."""
    (folder / "columns").mkdir()
    written = {n: Growing(folder / "columns" / f"{n}.npy", t) for n, t in COLUMNS.items()}
    count, items = requests.count, requests.items
    sweep = Sweep(
        count,
        requests,
        geometry.length,
        geometry.sequences,
        Scratch(folder / "scratch"),
        at_once,
    )
    rows = writable(folder / "index" / "rows.npy", count, np.int64)
    done = 0
    try:
        requests.choose_occurrences(geometry.length)
        for address, edit in sweep():
            order = np.argsort(edit)
            item = np.empty_like(edit)
            item[order] = requests.owner(edit[order])
            position = address // geometry.length
            columns = {
                "position": position,
                "offset": address - position * geometry.length,
                "item": item,
                "repetition": edit - items.first[item],
                **{name: items.columns[name][item] for name in ("length", "source", "kind", "arm")},
            }
            for name, column in written.items():
                column.append(columns[name])
            rows[edit] = np.arange(done, done + len(edit))
            done += len(edit)
    except PlacementError as error:
        owners = requests.owner(np.array(error.edits))
        who = " and ".join(f"{name} (item {item!r})" for name, item in names(owners))
        raise ValueError(
            f"the plan does not fit: {error} for {who}: widen its placement, lower its "
            "repetitions or lengthen the run"
        ) from None
    del rows
    return {name: column.close() for name, column in written.items()}
