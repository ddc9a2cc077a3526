"""Re-derive batches from the files of a study, for comparison with the loader (C5, C6).

An independent implementation: it imports nothing from loader, planner, order, corpus or
controllers, and composes row by row in plain Python from the documented formats, so that it shows
errors in the fast code.
"""

import bisect
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import struct
from collections.abc import Collection, Iterable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Texts = dict[tuple[int, int], list[int]]
"""The token ids in each slot, by (item, copy)."""


def read_decisions(plan: pathlib.Path, run: pathlib.Path) -> tuple[Texts, int]:
    """Return the texts in the slots, and the first step without decisions.

    Raises ValueError if the log's chain of hashes is broken.
    """
    contents = json.loads((plan / "plan.json").read_text(encoding="utf-8"))["contents"]
    index = json.loads((run / "controllers" / "index.json").read_text(encoding="utf-8"))
    tokens, starts = (np.load(run / "controllers" / f"{n}.npy") for n in ("tokens", "starts"))
    lines, texts, ends, number = _read_log(run / "decisions.jsonl"), {}, [], 0
    for controller in index["fillings"]:
        name = controller["experiment"], controller["slots"]
        item, copies = _find_item(plan, contents, *name)
        every, end = controller["every"], 0
        per_interval = copies // -(-contents["geometry"]["steps"] // every)
        for line in lines:
            if (line["experiment"], line["slots"]) != name:
                continue
            for k, chosen in enumerate(line["chosen"]):
                first, last = starts[number + chosen], starts[number + chosen + 1]
                texts[item, line["interval"] * per_interval + k] = tokens[first:last].tolist()
            end = max(end, (line["interval"] + 1) * every)
        ends.append(end)
        number += controller["texts"]
    return texts, min(ends)


def _read_log(path: pathlib.Path) -> list[dict[str, Any]]:
    """Return the complete lines of the log, without an incomplete last one."""
    lines: list[dict[str, Any]] = []
    raws = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for raw in raws:
        line = json.loads(raw)
        digest = line.pop("hash")
        text = json.dumps(line, sort_keys=True)
        intact = hashlib.sha256(text.encode()).hexdigest() == digest
        if not intact or (lines and line["previous"] != lines[-1]["hash"]):
            raise ValueError(f"{path} is damaged: line {len(lines) + 1} breaks its chain of hashes")
        lines.append({**line, "hash": digest})
    return lines


def _find_item(
    plan: pathlib.Path, contents: dict[str, Any], name: str, slots: str
) -> tuple[int, int]:
    """Return (number among all items of the plan, copies) of an experiment's item."""
    with pa.OSFile(os.fspath(plan / "items" / f"{name}.parquet")) as file:
        table = pq.read_table(file, columns=["id", "repetitions"]).to_pydict()
    row = table["id"].index(slots)
    before = contents["items"][: contents["experiments"].index(name)]
    return sum(before) + row, table["repetitions"][row]


_MASK64 = (1 << 64) - 1
_TOKENS, _RESERVE, _SLOT, _MARK, _NOISE = range(5)  # the plan's column `kind`


@dataclasses.dataclass(frozen=True)
class Share:
    """The rows of one step that the loader gave to one host."""

    step: int
    rows: np.ndarray
    """int64[b]: the rows of the batch."""
    tokens: np.ndarray
    """int32[b, L]"""
    arms: np.ndarray
    """uint16[b, L]"""
    noise: np.ndarray | None = None
    """float64[b, 4]: the two words of each row's noise key, and the absolute and relative part of
    its sigma; None if no row of the step has noise."""
    host: str = ""
    """Which host of how many, for messages."""


class PlainReader:
    """Composes any training row from `corpus/` and `plan/` alone.

    Columns stay on disk, so a plan of any size opens at once. With a `run`, its controllers' slots
    are filled as decided, up to the step `decided`; without one, they are empty. Only the edits of
    `experiments` are made, by default all. With `sham` (reserve windows, int64[m]), each text is
    replaced by that of window number mix64(position * 2**20 + offset) mod m.
    """

    def __init__(
        self,
        corpus: pathlib.Path,
        plan: pathlib.Path,
        run: pathlib.Path | None = None,
        experiments: Collection[str] | None = None,
        sham: np.ndarray | None = None,
    ) -> None:
        self.corpus = PlainCorpus(corpus)
        contents = json.loads((plan / "plan.json").read_text(encoding="utf-8"))["contents"]
        geometry = contents["geometry"]
        self.length, self.batch, self.steps = (geometry[k] for k in ("length", "batch", "steps"))
        self.order = contents["order"]
        self.seed: int = contents["seed"]
        self.noises = {
            arm["id"]: arm["noise"] for arm in contents["arms"] if sham is None and "noise" in arm
        }
        self.sham = sham
        self.left_out = {
            arm["id"]
            for arm in contents["arms"]
            if experiments is not None and arm["experiment"] not in experiments
        }
        self.train = self.corpus.count("train", self.length)
        self.filled: Texts = {}
        self.decided: int = self.steps
        if run is not None:
            self.filled, self.decided = read_decisions(plan, run)
        names = ("position", "offset", "length", "source", "kind", "arm", "item", "repetition")
        columns = {n: np.load(plan / "columns" / f"{n}.npy", "r") for n in names}
        self.edits = {n: np.asarray(column) for n, column in columns.items()}  # faster to index
        self.tokens = np.load(plan / "tokens.npy", "r")

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (tokens int32[B, L], arms uint16[B, L]) of one step."""
        rows = [self.row(step * self.batch + row) for row in range(self.batch)]
        tokens, arms = zip(*rows, strict=True)
        return np.array(tokens, np.int32), np.array(arms, np.uint16)

    def noise(self, step: int) -> np.ndarray | None:
        """Return the noise of the rows of a step, as in `Share.noise`."""
        found, where = np.zeros((self.batch, 4)), self.edits["position"]
        for edit in range(bisect.bisect_left(where, step * self.batch), len(where)):
            row, arm = int(where[edit]) - step * self.batch, int(self.edits["arm"][edit])
            if row >= self.batch:
                break
            if arm in self.noises and arm not in self.left_out:
                sigma = self.noises[arm]["sigma"]
                found[row, 2:] = (0, sigma) if self.noises[arm]["relative"] else (sigma, 0)
        if not found.any():
            return None
        digest = hashlib.blake2b(f"noise\x1f{self.seed}\x1f0".encode(), digest_size=8).digest()
        root = int.from_bytes(digest, "little")
        for row in range(self.batch):
            key = _mix((root + step * self.batch + row) & _MASK64)
            found[row, :2] = key >> 32, key & 0xFFFFFFFF
        return found

    def row(self, position: int) -> tuple[list[int], list[int]]:
        """Return the token ids and the arm ids of the row at a position of the training order."""
        window = window_at(position, self.train, self.order)
        tokens = self.corpus.window("train", window, self.length)
        arms = [0] * self.length
        where = self.edits["position"]
        for edit in range(bisect.bisect_left(where, position), len(where)):
            if where[edit] != position:
                break
            if int(self.edits["arm"][edit]) in self.left_out:
                continue
            first, length = int(self.edits["offset"][edit]), int(self.edits["length"][edit])
            text = self._text(edit, tokens[first : first + length])
            tokens[first : first + len(text)] = text
            arms[first : first + len(text)] = [int(self.edits["arm"][edit])] * len(text)
        return tokens, arms

    def _text(self, edit: int, there: list[int]) -> list[int]:
        """Return what an edit writes over the corpus tokens `there`."""
        kind, source = int(self.edits["kind"][edit]), int(self.edits["source"][edit])
        if self.sham is not None and kind in (_TOKENS, _RESERVE):
            place = int(self.edits["position"][edit]) << 20
            number = _mix(place + int(self.edits["offset"][edit])) % len(self.sham)
            kind, source = _RESERVE, int(self.sham[number])
        if kind == _TOKENS:
            text: list[int] = self.tokens[source : source + len(there)].tolist()
            return text
        if kind == _RESERVE:
            return self.corpus.window("reserve", source, self.length)[: len(there)]
        if kind == _SLOT:  # what the controller chose, or nothing yet
            copy = int(self.edits["item"][edit]), int(self.edits["repetition"][edit])
            return self.filled.get(copy, [])
        if kind in (_MARK, _NOISE):  # keeps the tokens
            return there
        raise ValueError(f"edit {edit} of the plan has the unknown kind {kind}")


class PlainCorpus:
    """Windows of a corpus, read one at a time from its shards as the manifest describes them."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads(
            (folder / "manifest.json").read_text(encoding="utf-8")
        )
        self.dtype: str = self.manifest["dtype"]
        self.numbering: dict[str, Any] | None = self.manifest.get("numbering")
        self.tables: dict[tuple[str, int], tuple[list[dict[str, Any]], list[int]]] = {}

    def count(self, split: str, length: int) -> int:
        """Return the number of windows of a split."""
        if self.numbering is None:
            return self._table(split, length)[1][-1]
        train: int = self.numbering["train"]
        after = self.numbering["windows"] - self.numbering["first"] - train
        return train if split == "train" else after

    def window(self, split: str, window: int, length: int) -> list[int]:
        """Return the token ids of one window; an order file numbers windows by its entries."""
        if not 0 <= window < self.count(split, length):
            raise ValueError(f"window {window} of {split} does not exist")
        if self.numbering is not None:
            first = self.numbering["first"] + (self.numbering["train"] if split == "reserve" else 0)
            entry, width = first + window, np.dtype(self.numbering["dtype"]).itemsize
            file, begin = pathlib.Path(self.numbering["file"]), self.numbering["offset"]
            (window,) = _read_integers(file, begin + entry * width, 1, self.numbering["dtype"])
            split = "all"
        shards, starts = self._table(split, length)
        place = bisect.bisect_right(starts, window) - 1
        shard, inside = shards[place], window - starts[place]
        begin = shard.get("offset", 0) + inside * length * np.dtype(self.dtype).itemsize
        return _read_integers(self.folder / shard["name"], begin, length, self.dtype)

    def _table(self, split: str, length: int) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the split's shards, and the first window of each, then the number of windows."""
        if (split, length) not in self.tables:
            shards = [shard for shard in self.manifest["shards"] if shard["split"] == split]
            counts = (shard["tokens"] // length for shard in shards)
            self.tables[split, length] = shards, [0, *itertools.accumulate(counts)]
        return self.tables[split, length]


def differences(reader: PlainReader, loaded: Iterable[Share]) -> Iterator[str]:
    """Yield a line for each token at which a loader's share and the reader differ.

    The shares of a step must be consecutive: each step is derived once.
    """
    for step, shares in itertools.groupby(loaded, lambda share: share.step):
        tokens, arms = reader.step(step)
        noise = reader.noise(step)
        for share in shares:
            where = f" on {share.host}" if share.host else ""
            yield from _noise_differences(noise, share, where)
            for what, all_ours, theirs in (
                ("token", tokens, share.tokens),
                ("arm", arms, share.arms),
            ):
                ours = all_ours[share.rows]
                if (ours.shape, ours.dtype) != (theirs.shape, theirs.dtype):
                    yield (
                        f"step {step}{where}: {what}s are {theirs.dtype}{list(theirs.shape)} in "
                        f"the loader, {ours.dtype}{list(ours.shape)} by the plan"
                    )
                    continue
                for row, column in np.argwhere(ours != theirs):
                    yield (
                        f"step {step} row {share.rows[row]} token {column}{where}: {what} "
                        f"{theirs[row, column]} in the loader, {ours[row, column]} by the plan"
                    )


def _noise_differences(noise: np.ndarray | None, share: Share, where: str) -> Iterator[str]:
    if noise is None or share.noise is None:
        if noise is not share.noise:
            has = "no noise" if share.noise is None else "noise"
            yield f"step {share.step}{where}: the loader gives {has}, the plan the opposite"
        return
    ours = noise[share.rows]
    scale = ours[:, 2:].astype(np.float32) != share.noise[:, 2:]
    for row in np.flatnonzero((ours[:, :2] != share.noise[:, :2]).any(1) | scale.any(1)):
        yield (
            f"step {share.step} row {share.rows[row]}{where}: noise {share.noise[row].tolist()} in "
            f"the loader, {ours[row].tolist()} by the plan"
        )


def window_at(position: int, total: int, order: dict[str, Any]) -> int:
    """Return the training window at a position of the order, of `total` windows an epoch."""
    epoch, place = divmod(position + order.get("start", 0), total)
    if order.get("first_in_order") and epoch == 0:
        return place  # the order file's own numbers
    return _permute(place, total, order["seed"], epoch)


def _read_integers(path: pathlib.Path, begin: int, count: int, dtype: str) -> list[int]:
    """Read `count` little-endian integers of a file from byte `begin` on."""
    code = {"uint16": "H", "uint32": "I", "int32": "i", "uint64": "Q", "int64": "q"}[dtype]
    with open(path, "rb") as file:
        file.seek(begin)
        raw = file.read(count * struct.calcsize(f"<{code}"))
    return list(struct.unpack(f"<{count}{code}", raw))


def _permute(place: int, total: int, seed: int, epoch: int) -> int:
    """Apply the keyed Feistel permutation of `data/order.py`, in Python integers."""
    bits = 1
    while (1 << (2 * bits)) < total:
        bits += 1
    rounds = 6
    digest = hashlib.blake2b(f"order:{seed}:{epoch}".encode(), digest_size=8 * rounds).digest()
    while True:
        left, right = place >> bits, place % (1 << bits)
        for i in range(rounds):
            key = int.from_bytes(digest[8 * i : 8 * i + 8], "little")
            left, right = right, left ^ (_mix(right ^ key) % (1 << bits))
        place = (left << bits) | right
        if place < total:
            return place


def _mix(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)
