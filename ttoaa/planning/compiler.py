"""Turns interventions into a plan: items into edits, edits into addresses and columns (C3)."""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.planning.items import RESERVE, TOKENS, Intervention, Item
from ttoaa.planning.occupancy import PlacementError, Requests, place
from ttoaa.planning.placement import Explicit, Uniform, WholeBatch, Within
from ttoaa.planning.plan import COLUMNS, content_hash


@dataclasses.dataclass(frozen=True)
class CompiledPlan:
    """A plan in memory, as `store` writes it."""

    contents: dict[str, Any]
    columns: dict[str, np.ndarray]
    tokens: np.ndarray
    items: dict[str, list[Item]]

    @property
    def hash(self) -> str:
        return content_hash(self.contents, self.columns, self.tokens)


def compile_plan(
    interventions: Mapping[str, Intervention],
    geometry: Geometry,
    vocab_size: int,
    identity: Mapping[str, Any],
) -> CompiledPlan:
    """Places every edit of every experiment (by name).

    `identity` (seed, fingerprints of corpus, vocabulary and order) becomes part of the hash.
    Raises ValueError, naming the experiment, for whatever does not fit; drops nothing.
    """
    names = sorted(interventions)
    items = {name: list(interventions[name].items) for name in names}
    for name in names:
        _check(name, interventions[name], geometry.length, vocab_size)
    flat = [(name, item) for name in names for item in items[name]]
    _check_capacity(flat, geometry)

    arm_names = [f"{name}/{c}" for name in names for c in _conditions(items[name])]
    if len(arm_names) >= np.iinfo(np.uint16).max:
        raise ValueError(f"a run holds at most 65,534 arms, this study has {len(arm_names)}")
    arm_id = {arm: number for number, arm in enumerate(arm_names, start=1)}

    tokens = [i.tokens for _, i in flat if i.tokens is not None]
    starts = np.cumsum([0] + [0 if i.tokens is None else len(i.tokens) for _, i in flat])
    repeats = np.array([item.repetitions for _, item in flat], np.int64)
    owner = np.repeat(np.arange(len(flat)), repeats)
    repetition = np.arange(len(owner)) - np.repeat(np.cumsum(repeats) - repeats, repeats)

    requests = _requests(flat, owner, repetition, geometry, int(identity["seed"]))
    address = _place(requests, geometry.length, flat, owner)
    kind = np.array([item.kind() for _, item in flat], np.uint8)
    source = [
        start if i.tokens is not None else -1 if i.window is None else i.window
        for start, (_, i) in zip(starts[:-1], flat, strict=True)
    ]
    arms = np.array([arm_id.get(f"{name}/{i.condition}", 0) for name, i in flat], np.int64)
    order = np.argsort(address, kind="stable")
    columns = {
        "position": address // geometry.length,
        "offset": address % geometry.length,
        "length": requests.length,
        "source": np.array(source, np.int64)[owner],
        "kind": kind[owner],
        "arm": arms[owner],
        "item": owner,
        "repetition": repetition,
    }
    columns = {k: columns[k][order].astype(dtype) for k, dtype in COLUMNS.items()}
    contents = {
        **identity,
        "geometry": dataclasses.asdict(geometry),
        "experiments": names,
        "arms": _arm_rows(arm_names, columns),
    }
    joined = np.concatenate([np.empty(0, np.int32), *tokens]).astype(np.int32)
    return CompiledPlan(contents, columns, joined, items)


def _conditions(items: Sequence[Item]) -> list[str]:
    """Conditions that enter training, in order of appearance: a holdout has no arm."""
    return list(dict.fromkeys(item.condition for item in items if item.repetitions))


def _check(name: str, intervention: Intervention, length: int, vocab_size: int) -> None:
    own = set(intervention.windows.tolist())
    seen: set[str] = set()
    for item in intervention.items:
        where = f"{name}: item {item.id!r}"
        if item.id in seen:
            raise ValueError(f"{where} occurs twice: ids must be unique in an experiment")
        seen.add(item.id)
        try:
            kind = item.kind()
        except ValueError as error:
            raise ValueError(f"{where} {error}") from None
        if not isinstance(item.repetitions, int | np.integer) or item.repetitions < 0:
            raise ValueError(f"{where} has repetitions {item.repetitions!r}: a whole number >= 0")
        try:
            item.fields_json()
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} has fields that cannot be stored: {error}") from error
        if kind != TOKENS and not 0 < item.length(length) <= length:
            raise ValueError(f"{where} is {item.length(length)} tokens long, a row holds {length}")
        if item.tokens is None:
            if kind == RESERVE and item.window not in own:
                raise ValueError(
                    f"{where} takes the reserve's window {item.window}, which is not its own: "
                    "ask for enough in reserve_windows and take them from world.windows"
                )
            continue
        _whole_numbers(where, "tokens", item.tokens)
        if not 0 < len(item.tokens) <= length:
            raise ValueError(
                f"{where} has {len(item.tokens)} tokens, a row holds 1 to {length}: "
                "shorten it or raise Geometry.length"
            )
        if np.min(item.tokens) < 0 or np.max(item.tokens) >= vocab_size:
            raise ValueError(f"{where} has token ids outside the vocabulary of {vocab_size}")


def _check_capacity(flat: Sequence[tuple[str, Item]], geometry: Geometry) -> None:
    wanted: dict[str, int] = {}
    for name, item in flat:
        length = item.length(geometry.length)
        wanted[name] = wanted.get(name, 0) + length * item.repetitions
    if sum(wanted.values()) > geometry.tokens:
        most = max(wanted, key=lambda name: wanted[name])
        raise ValueError(
            f"the plan does not fit: {sum(wanted.values()):,} tokens of edits in a run of "
            f"{geometry.tokens:,}; {most} alone asks for {wanted[most]:,}: lower its repetitions "
            "or raise Geometry.steps"
        )


def _requests(
    flat: Sequence[tuple[str, Item]],
    owner: np.ndarray,
    repetition: np.ndarray,
    geometry: Geometry,
    seed: int,
) -> Requests:
    lengths = [i.length(geometry.length) for _, i in flat]
    keys = np.array([_key(seed, name, item.id) for name, item in flat], np.uint64)
    ranges = np.array([_range(name, i, geometry) for name, i in flat], np.int64).reshape(-1, 2)
    fixed = np.concatenate([np.empty(0, np.int64)] + [_fixed(n, i, geometry) for n, i in flat])
    with np.errstate(over="ignore"):
        key = keys[owner] + repetition.astype(np.uint64) * np.uint64(0xD6E8FEB86659FD93)
    return Requests(
        key=key,
        length=np.array(lengths, np.int64)[owner],
        low=ranges[owner, 0],
        high=ranges[owner, 1],
        fixed=fixed,
    )


def _key(seed: int, name: str, item: str) -> int:
    text = f"place\x1f{seed}\x1f{name}\x1f{item}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little")


def _range(name: str, item: Item, geometry: Geometry) -> tuple[int, int]:
    """The positions [low, high) that a freely placed item may go to."""
    if not isinstance(item.placement, Within):
        return 0, geometry.sequences
    low = round(item.placement.start * geometry.sequences)
    high = round(item.placement.stop * geometry.sequences)
    if low >= high:
        raise ValueError(f"{name}: {item.placement} holds no sequence of {geometry.sequences}")
    return low, high


def _fixed(name: str, item: Item, geometry: Geometry) -> np.ndarray:
    """int64[repetitions]: the addresses that the placement dictates, or -1 for each."""
    placement, count = item.placement, item.repetitions
    where = f"{name}: item {item.id!r}"
    length = item.length(geometry.length)
    if isinstance(placement, Uniform | Within):
        return np.full(count, -1, np.int64)
    if isinstance(placement, WholeBatch):
        steps = _whole_numbers(where, "steps", placement.steps)
        _whole_numbers(where, "row", [placement.row])
        if not 0 <= placement.row < geometry.batch or length != geometry.length:
            raise ValueError(
                f"{where}: a whole batch has rows 0 to {geometry.batch - 1}, each full"
            )
        positions, offsets = steps * geometry.batch + placement.row, np.zeros_like(steps)
    elif isinstance(placement, Explicit):
        positions = _whole_numbers(where, "positions", placement.positions)
        given = placement.offsets
        given = given if np.iterable(given) else [given] * len(positions)
        offsets = _whole_numbers(where, "offsets", given)
        if len(offsets) != len(positions):
            raise ValueError(f"{where} has {len(positions)} positions but {len(offsets)} offsets")
    else:
        raise ValueError(f"{where}: unknown placement {placement!r}")
    if len(positions) != count:
        raise ValueError(f"{where} has {count} repetitions but {len(positions)} places")
    if np.any((positions < 0) | (positions >= geometry.sequences)):
        raise ValueError(f"{where} is placed outside the run of {geometry.steps} steps")
    if np.any((offsets < 0) | (offsets + length > geometry.length)):
        raise ValueError(f"{where} would leave its row of {geometry.length} tokens")
    return positions * geometry.length + offsets


def _whole_numbers(where: str, name: str, values: Any) -> np.ndarray:
    """int64[n]; NumPy would cut fractions off without a word."""
    try:
        array = np.asarray(values)
    except ValueError:  # ragged
        array = np.empty((1, 1))
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise ValueError(f"{where} needs a list of whole numbers as {name}, not {values!r}")
    return array.astype(np.int64)


def _place(
    requests: Requests, length: int, flat: Sequence[tuple[str, Item]], owner: np.ndarray
) -> np.ndarray:
    try:
        return place(requests, length)
    except PlacementError as error:
        edits = [flat[owner[edit]] for edit in error.edits]
        who = " and ".join(f"{name} (item {item.id!r})" for name, item in edits)
        raise ValueError(
            f"the plan does not fit: {error} for {who}: widen its placement, lower its "
            "repetitions or lengthen the run"
        ) from None


def _arm_rows(names: Sequence[str], columns: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    edits = np.bincount(columns["arm"], minlength=len(names) + 1)
    tokens = np.bincount(columns["arm"], weights=columns["length"], minlength=len(names) + 1)
    return [
        {
            "id": number,
            "name": name,
            "experiment": name.partition("/")[0],
            "condition": name.partition("/")[2],
            "edits": int(edits[number]),
            "tokens": int(tokens[number]),
        }
        for number, name in enumerate(names, start=1)
    ]
