"""Items: the unit of randomisation and of statistics, and how often each enters training.

An experiment yields `Item` (one) or `Items` (many, as columns); `blocks` turns both into validated
columns for the planner.
"""

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from ttoaa.planning.placement import FixedPlacement, Placement, Uniform, whole_numbers

TOKENS, RESERVE, SLOT, MARK, NOISE = range(5)
"""The kinds of edit, as numbered in the plan's column `kind`."""


@dataclasses.dataclass(frozen=True)
class Noise:
    """Gaussian noise on the input embeddings of a whole row, which keeps its text.

    All items of a condition have the same noise.
    """

    sigma: float
    """Standard deviation of the noise of each coordinate."""
    relative: bool = True
    """Whether `sigma` is in units of the root mean square of the embedding matrix at that step,
    or absolute."""
    exclusive: bool = True
    """Whether no other edit may touch the row. Otherwise other experiments' edits share it: the
    noise comes on top of whatever the row holds, and its placement must be a fixed one."""

    @property
    def scale(self) -> tuple[float, float]:
        """The absolute and the relative part of sigma: absolute + relative * RMS is used."""
        return (0.0, self.sigma) if self.relative else (self.sigma, 0.0)


@dataclasses.dataclass(frozen=True)
class Item:
    """One item. Give exactly one of `tokens`, `window`, `slot`, `mark` and `noise`.

    An item with 0 repetitions is a holdout or a matched non-member: scored, but never inserted.
    """

    id: str
    condition: str
    repetitions: int
    tokens: np.ndarray | None = None
    """int[n] token ids that overwrite the corpus."""
    window: int | None = None
    """A reserve window that replaces a whole row."""
    slot: int | None = None
    """A length in tokens to reserve for text that a controller chooses during the run."""
    mark: int | None = None
    """A length in tokens that keep the corpus text, but are occupied and carry the arm's id."""
    noise: Noise | None = None
    """Noise on the embeddings of a whole row, which keeps its text."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    text: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Further values that evaluation needs, of types that JSON or NumPy can hold."""

    def kind(self) -> int:
        """Return the kind of its edits; raises ValueError unless one of the five is given."""
        return _one_kind((self.tokens, self.window, self.slot, self.mark, self.noise))

    def fields_json(self) -> str:
        """Encode `fields`; raises TypeError or ValueError for values that JSON cannot hold."""
        return json.dumps(dict(self.fields), default=_to_json)


@dataclasses.dataclass(frozen=True)
class Items:
    """n items of one kind and one placement as columns, for experiments with very many items.

    Give exactly one of `tokens`, `windows`, `slots`, `marks` and `noise`. The positions of an
    `Explicit` are those of all copies of the first item, then of the second, and so on; item i of a
    `WholeBatch` fills row `row + i`. The planner holds one block in memory: yield about 50,000
    items at a time.
    """

    ids: Sequence[str]
    condition: str | Sequence[str]
    """One condition for all items, or the list of names that `codes` indexes."""
    repetitions: int | np.ndarray
    """One number for all items, or int[n]."""
    codes: np.ndarray | None = None
    """int[n]: each item's index in `condition`."""
    tokens: np.ndarray | None = None
    """int[total]: the token ids of all items, concatenated."""
    lengths: np.ndarray | None = None
    """int[n]: the number of tokens of each item."""
    windows: np.ndarray | None = None
    """int[n]"""
    slots: int | np.ndarray | None = None
    """One length in tokens for all items, or int[n]."""
    marks: int | np.ndarray | None = None
    """As `slots`."""
    noise: Noise | None = None
    """The noise of every item."""
    placement: Placement = dataclasses.field(default_factory=Uniform)
    texts: Sequence[str] | None = None
    fields: Mapping[str, Sequence[Any]] | None = None
    """Columns of n values each."""

    def kind(self) -> int:
        """As `Item.kind`."""
        return _one_kind((self.tokens, self.windows, self.slots, self.marks, self.noise))

    def fields_json(self) -> list[str]:
        """Encode the fields of each item as JSON; an empty list if there are no fields."""
        if not self.fields:
            return []
        rows = zip(*self.fields.values(), strict=True)
        return [json.dumps(dict(zip(self.fields, r, strict=True)), default=_to_json) for r in rows]


def _one_kind(given: Sequence[Any]) -> int:
    kinds = [kind for kind, value in enumerate(given) if value is not None]
    if len(kinds) != 1:
        raise ValueError("needs exactly one of tokens, a reserve window, a slot, a mark and noise")
    return kinds[0]


def _to_json(value: Any) -> Any:
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"JSON cannot hold {value!r}")


@dataclasses.dataclass(frozen=True)
class Intervention:
    """The edits of one experiment."""

    items: Iterable[Item | Items]
    """Read once, in order, a block at a time."""
    windows: np.ndarray
    """int64[n]: the reserve windows assigned to this experiment."""


_BLOCK_ITEMS = 4096  # single items that form a block


@dataclasses.dataclass(frozen=True)
class Block:
    """n items of one experiment as columns."""

    ids: pa.Array
    """string[n]"""
    conditions: Sequence[str]
    """Distinct names."""
    noises: Mapping[str, Noise]
    """The noise of those conditions whose rows have some."""
    code: np.ndarray
    """int64[n]: index in `conditions`."""
    repetitions: np.ndarray
    """int64[n]"""
    kind: np.ndarray
    """uint8[n]"""
    length: np.ndarray
    """int64[n]: tokens of each edit."""
    window: np.ndarray
    """int64[n] reserve windows, -1 for other kinds."""
    tokens: np.ndarray
    """int32[total]: the token ids of the items of kind TOKENS, concatenated."""
    runs: Sequence[tuple[int, int, Placement]]
    """(first, last, placement) of each run of consecutive items that share a placement."""
    texts: pa.Array
    """string[n]"""
    fields: pa.Array
    """string[n] of JSON."""

    def __len__(self) -> int:
        return len(self.ids)


def blocks(name: str, items: Iterable[Item | Items], row: int, vocab: int) -> Iterator[Block]:
    """Yield the items of experiment `name` in order, validated.

    `row` is the length of a row in tokens, `vocab` the size of the vocabulary. Raises ValueError,
    naming experiment and item, for an item that cannot be trained on.
    """
    waiting: list[Item] = []
    for each in items:
        if not isinstance(each, Items):
            waiting.append(each)
        if waiting and (isinstance(each, Items) or len(waiting) == _BLOCK_ITEMS):
            yield _validate(name, _block_of_items(name, waiting, row), row, vocab)
            waiting = []
        if isinstance(each, Items):
            yield _validate(name, _block_of_columns(name, each, row), row, vocab)
    if waiting:
        yield _validate(name, _block_of_items(name, waiting, row), row, vocab)


def _where(name: str, item: Any) -> str:
    return f"{name}: item {item!r}"


def _block_of_items(name: str, items: Sequence[Item], row: int) -> Block:
    kinds, windows, lengths, fields, texts = [], [], [], [], []
    noises: dict[str, Noise] = {}
    for item in items:
        where = _where(name, item.id)
        try:
            kind = item.kind()
            fields.append(item.fields_json())
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where} {_describe(error)}") from error
        if not isinstance(item.repetitions, int | np.integer):
            raise ValueError(
                f"{where} has repetitions {item.repetitions!r}: use a whole number >= 0"
            )
        if item.tokens is not None:
            texts.append(whole_numbers(where, "tokens", item.tokens))
        given = (item.window, item.slot, item.mark)
        number = next((each for each in given if each is not None), 0)
        if item.noise is not None:
            number = _noise_length(where, item.noise, row)
            if noises.setdefault(item.condition, item.noise) != item.noise:
                raise ValueError(
                    f"{where} has other noise than items of the same condition, "
                    f"{item.condition!r}: give it a condition for itself"
                )
        (size,) = whole_numbers(where, ("", "window", "slot", "mark", "noise")[kind], [number])
        kinds.append(kind)
        windows.append(size if kind == RESERVE else -1)
        lengths.append(len(texts[-1]) if kind == TOKENS else row if kind == RESERVE else size)
    conditions = {item.condition: None for item in items}
    codes = {condition: code for code, condition in enumerate(conditions)}
    return Block(
        ids=_text_array(name, "id", [item.id for item in items]),
        conditions=list(conditions),
        noises=noises,
        code=np.array([codes[item.condition] for item in items], np.int64),
        repetitions=np.array([item.repetitions for item in items], np.int64),
        kind=np.array(kinds, np.uint8),
        length=np.array(lengths, np.int64),
        window=np.array(windows, np.int64),
        tokens=np.concatenate([np.empty(0, np.int64), *texts]),
        runs=list(_placement_runs([item.placement for item in items])),
        texts=_text_array(name, "text", [item.text for item in items]),
        fields=pa.array(fields, pa.string()),
    )


def _noise_length(where: str, noise: Noise, row: int) -> int:
    """Return the tokens that a row with noise occupies; raises ValueError for a bad sigma."""
    if not (isinstance(noise.sigma, int | float) and 0 < noise.sigma < float("inf")):
        raise ValueError(f"{where} has noise of sigma {noise.sigma!r}: use a number above 0")
    return row if noise.exclusive else 0


def _text_array(name: str, what: str, values: Sequence[str]) -> pa.Array:
    """string[n]"""
    try:
        array = pa.array(values, pa.string())
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ValueError(f"{name}: an item's {what} must be text: {error}") from error
    if array.null_count:
        raise ValueError(f"{name}: an item's {what} must be text, not None")
    return array


def _describe(error: Exception) -> str:
    text = str(error)
    return text if text.startswith("needs ") else f"has fields that cannot be stored: {text}"


def _placement_runs(placements: Sequence[Placement]) -> Iterator[tuple[int, int, Placement]]:
    first = 0
    for place in range(1, len(placements) + 1):
        if place == len(placements) or not _shared(placements[first], placements[place]):
            yield first, place, placements[first]
            first = place


def _shared(one: Placement, other: Placement) -> bool:
    """Return whether two items share a placement; each fixed placement is for one item alone."""
    return not isinstance(one, FixedPlacement) and (one is other or one == other)


def _block_of_columns(name: str, items: Items, row: int) -> Block:
    n = len(items.ids)
    where = f"{name}: the block of {n} items" + (f" from {items.ids[0]!r} on" if n else "")
    try:
        kind = items.kind()
        fields = items.fields_json()
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where} {_describe(error)}") from error

    def column(what: str, value: Any) -> np.ndarray:
        """int64[n]"""
        array = whole_numbers(where, what, value if np.iterable(value) else [value] * n)
        if len(array) != n:
            raise ValueError(f"{where}: {n} ids, but {len(array)} {what}")
        return array

    windows = np.full(n, -1)
    tokens = np.empty(0, np.int32)
    if kind == TOKENS:
        assert items.tokens is not None
        lengths = column("lengths", items.lengths)
        tokens = np.asarray(items.tokens)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or len(tokens) != lengths.sum():
            raise ValueError(f"{where}: tokens must be {lengths.sum()} whole numbers, concatenated")
    elif kind == RESERVE:
        windows, lengths = column("windows", items.windows), np.full(n, row)
    elif items.noise is not None:
        lengths = np.full(n, _noise_length(where, items.noise, row))
    else:
        lengths = column("lengths", items.slots if kind == SLOT else items.marks)
    conditions = [items.condition] if isinstance(items.condition, str) else list(items.condition)
    codes = column("codes", 0 if items.codes is None else items.codes)
    if np.any((codes < 0) | (codes >= len(conditions))):
        raise ValueError(f"{where}: codes must be indices of its {len(conditions)} conditions")
    for what, given in (("texts", items.texts), ("fields", fields)):
        if given and len(given) != n:
            raise ValueError(f"{where}: {n} ids, but {len(given)} {what}")
    return Block(
        ids=_text_array(name, "id", items.ids),
        conditions=conditions,
        noises=dict.fromkeys(conditions, items.noise) if items.noise else {},
        code=codes,
        repetitions=column("repetitions", items.repetitions),
        kind=np.full(n, kind, np.uint8),
        length=lengths,
        window=windows,
        tokens=tokens,
        runs=[(0, n, items.placement)] if n else [],
        texts=pa.repeat("", n) if items.texts is None else _text_array(name, "text", items.texts),
        fields=pa.array(fields, pa.string()) if items.fields else pa.repeat("{}", n),
    )


def _validate(name: str, block: Block, row: int, vocab: int) -> Block:
    """Return the block with tokens as int32; raises ValueError for an item that does not fit."""

    def first_bad(bad: np.ndarray) -> tuple[str, int]:
        item = int(np.flatnonzero(bad)[0])
        return _where(name, block.ids[item].as_py()), item

    if (bad := block.repetitions < 0).any():
        where, item = first_bad(bad)
        raise ValueError(
            f"{where} has repetitions {block.repetitions[item]}: use a whole number >= 0"
        )
    shares = (block.kind == NOISE) & (block.length == 0)  # the row with others
    if (bad := (block.length < 1) & ~shares | (block.length > row)).any():
        where, item = first_bad(bad)
        what = ("has {} tokens", "", "has a slot of {}", "has a mark of {}")[block.kind[item]]
        raise ValueError(
            f"{where} {what.format(block.length[item])}, a row holds 1 to {row}: "
            "shorten it or raise Geometry.length"
        )
    tokens = block.tokens
    if len(tokens) and (tokens.min() < 0 or tokens.max() >= vocab):
        wrong = np.flatnonzero((tokens < 0) | (tokens >= vocab))[0]
        own = np.flatnonzero(block.kind == TOKENS)
        item = own[np.searchsorted(np.cumsum(block.length[own]), wrong, "right")]
        where = _where(name, block.ids[item].as_py())
        raise ValueError(f"{where} has token ids outside the vocabulary of {vocab}")
    return dataclasses.replace(block, tokens=tokens.astype(np.int32, copy=False))
