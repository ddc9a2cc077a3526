"""Compile a plan: items become edits, edits get addresses, columns go to disk (C3, C4)."""

import dataclasses
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.data.order import mix64
from ttoaa.planning.allocator import Allocator, Occupancy, PlacementError, Requests, place_edits
from ttoaa.planning.column_files import NpyWriter, Scratch, TableWriter, create_npy
from ttoaa.planning.item_tables import ItemTableWriter, PlannedItems
from ttoaa.planning.items import NOISE, Intervention
from ttoaa.planning.plan import COLUMNS, Edits, ItemNames, content_hash

Redraws = Mapping[tuple[str, str, int], int]
"""How many times each (experiment, item id, repetition) is placed again."""


@dataclasses.dataclass(frozen=True)
class CompiledPlan(Edits):
    """A plan before `store` adds provenance, summary and plan.json, and gives it its name."""

    described: dict[str, Any]
    """Its `contents`."""
    digests: dict[str, str]
    """sha256 of every column and of `tokens`."""
    _temporary: Any = dataclasses.field(default=None, repr=False, compare=False)

    @property
    def contents(self) -> dict[str, Any]:
        return self.described

    @property
    def hash(self) -> str:
        return content_hash(self.contents, self.digests)


def compile_plan(
    interventions: Mapping[str, Intervention],
    geometry: Geometry,
    vocab_size: int,
    identity: Mapping[str, Any],
    redraws: Redraws | None = None,
    folder: pathlib.Path | None = None,
    at_once: int = 1 << 20,
) -> CompiledPlan:
    """Place every edit of every experiment, given by name.

    `identity` (seed, fingerprints of corpus, vocabulary and order) becomes part of the hash. Files
    go into `folder`, which is empty (see `workdir.unfinished_folder`), or into a temporary folder
    that lives as long as the result. `at_once` edits are in memory at a time; it does not change
    the result. Raises ValueError, naming the experiment, if an edit does not fit; drops none.
    """
    temporary = None
    if folder is None:
        temporary = tempfile.TemporaryDirectory(prefix="ttoaa-plan-")
        folder = pathlib.Path(temporary.name)
    seed = int(identity["seed"])
    with TableWriter() as tables:
        writer = ItemTableWriter(folder, geometry, vocab_size, seed, tables)
        for name in sorted(interventions):
            writer.add(name, interventions[name])
    items = writer.close()
    names = ItemNames(folder, seed, items.counts)
    digests = _write_columns(
        _EditRequests(items, names, redraws or {}), names, geometry, folder, at_once
    )
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
    return CompiledPlan(folder, contents, {**digests, "tokens": items.tokens}, temporary)


class _EditRequests:
    """The requests of edits by number; edits are numbered item by item, copy by copy."""

    def __init__(self, items: PlannedItems, names: ItemNames, redraws: Redraws) -> None:
        self.items = items
        self.count = int(items.first[-1])
        self._repetitions = np.diff(items.first)
        redrawn = sorted((self._number(names, *edit), times) for edit, times in redraws.items())
        self._redrawn = np.array(redrawn, np.int64).reshape(-1, 2)
        self._chosen = (np.empty(0, np.int64), np.empty(0, np.int64))

    def _number(self, names: ItemNames, experiment: str, name: str, repetition: int) -> int:
        found = names.items(name, experiment) if experiment in self.items.counts else []
        if not found or not 0 <= repetition < self._repetitions[found[0]]:
            raise ValueError(f"{experiment}: item {name!r} has no copy {repetition} to place again")
        if self.items.columns["region"][found[0]] < 0:
            raise ValueError(f"{experiment}: item {name!r} must move, but its placement is fixed")
        return int(self.items.first[found[0]]) + repetition

    def choose_candidates(self, length: int) -> None:
        """Choose the addresses of edits that have candidates: from then on they are fixed."""
        items, region = self.items, self.items.columns["region"]
        restricted = np.isin(region, np.flatnonzero(items.regions.is_candidates))
        if not restricted.any():
            return
        chosen = np.flatnonzero(restricted | (region < 0))
        counts = self._repetitions[chosen]
        edits = np.repeat(items.first[chosen] - (np.cumsum(counts) - counts), counts)
        edits += np.arange(len(edits))
        requests = self(edits)
        priority = requests.priority(length)
        try:
            address = place_edits(requests, priority, length, Occupancy(), items.regions.candidates)
        except PlacementError as error:
            raise PlacementError(str(error), edits[error.edits].tolist()) from None
        lost = np.flatnonzero(address < 0)
        if len(lost):
            raise PlacementError("all its candidate places are taken", edits[lost[:1]].tolist())
        self._chosen = (edits, address)

    def owner(self, edits: np.ndarray) -> np.ndarray:
        """Return the items of ascending edits, int64[k]."""
        return np.searchsorted(self.items.first, edits, "right") - 1

    def __call__(self, edits: np.ndarray) -> Requests:
        """Return the requests of ascending edits, int64[k]."""
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
        region, fixed = columns["region"][owner], np.full(len(edits), -1)
        low, high = np.zeros(len(edits), np.int64), np.ones(len(edits), np.int64)
        restricted = np.zeros(len(edits), bool)
        random = np.flatnonzero(region >= 0)
        low[random], high[random], restricted[random] = self.items.regions.bounds(
            region[random], repetition[random], self._repetitions[owner[random]]
        )
        dictated = np.flatnonzero(region < 0)
        fixed[dictated] = self.items.fixed[columns["place"][owner[dictated]] + repetition[dictated]]
        chosen, address = self._chosen
        if len(chosen) and restricted.any():
            fixed[restricted] = address[np.searchsorted(chosen, edits[restricted])]
            restricted[:] = False
        length = columns["length"][owner].astype(np.int64)
        return Requests(
            key=key, length=length, low=low, high=high, fixed=fixed, restricted=restricted
        )


def _refuse_two_noises(columns: Mapping[str, np.ndarray], edit: np.ndarray) -> None:
    """Raise PlacementError where two of these edits, by ascending position, perturb one row."""
    noisy = np.flatnonzero(columns["kind"] == NOISE)
    twice = np.flatnonzero(np.diff(columns["position"][noisy]) == 0)
    if len(twice):
        pair = edit[noisy[twice[0] : twice[0] + 2]]
        raise PlacementError("two items add noise to the same row", np.sort(pair).tolist())


def _step_of(requests: _EditRequests, edits: list[int], geometry: Geometry) -> int:
    """Return the step in which fixed edits collide."""
    return int(requests(np.sort(edits)).fixed.max()) // geometry.length // geometry.batch


def _write_columns(
    requests: _EditRequests,
    names: ItemNames,
    geometry: Geometry,
    folder: pathlib.Path,
    at_once: int,
) -> dict[str, str]:
    """Place all edits, write columns/ and index/rows.npy, return the sha256 of each column."""
    (folder / "columns").mkdir()
    written = {n: NpyWriter(folder / "columns" / f"{n}.npy", t) for n, t in COLUMNS.items()}
    count, items = requests.count, requests.items
    allocator = Allocator(
        count,
        requests,
        geometry.length,
        geometry.sequences,
        Scratch(folder / "scratch"),
        at_once,
    )
    rows = create_npy(folder / "index" / "rows.npy", count, np.int64)
    done = 0
    try:
        requests.choose_candidates(geometry.length)
        for address, edit in allocator():
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
            _refuse_two_noises(columns, edit)
            for name, column in written.items():
                column.append(columns[name])
            rows[edit] = np.arange(done, done + len(edit))
            done += len(edit)
    except PlacementError as error:
        owners = requests.owner(np.array(error.edits))
        who = [f"{name} (item {item!r})" for name, item in names(owners)]
        advice = "widen its placement, lower its repetitions or lengthen the run"
        if len(who) > 1:
            step = _step_of(requests, error.edits, geometry)
            noisy = items.columns["kind"][owners] == NOISE
            mover = names(owners[noisy][-1:])[0][0] if noisy.any() else "one of them"
            advice = f"move {mover} away from step {step}"
        raise ValueError(
            f"the plan does not fit: {error} for {' and '.join(who)}: {advice}"
        ) from None
    del rows
    return {name: column.close() for name, column in written.items()}
