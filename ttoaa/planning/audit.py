"""Re-derives batches from the files of a study, to be compared with what the loader gives (C5).

This is the second opinion: it imports nothing from loader, planner, order or corpus. It is written
row by row in plain Python from the formats as documented, so that a fault in the fast code shows.
"""

import bisect
import hashlib
import json
import pathlib
from collections.abc import Iterable

import numpy as np

_MASK64 = (1 << 64) - 1


class PlainReader:
    """Composes any training batch from `corpus/` and `plan/` alone."""

    def __init__(self, corpus: pathlib.Path, plan: pathlib.Path) -> None:
        self.corpus = corpus
        self.manifest = json.loads((corpus / "manifest.json").read_text(encoding="utf-8"))
        contents = json.loads((plan / "plan.json").read_text(encoding="utf-8"))["contents"]
        geometry = contents["geometry"]
        self.length, self.batch, self.steps = (geometry[k] for k in ("length", "batch", "steps"))
        self.order_seed = contents["order"]["seed"]
        names = ("position", "offset", "length", "source", "kind", "arm")
        self.edits = {n: np.load(plan / "columns" / f"{n}.npy").tolist() for n in names}
        self.tokens = np.load(plan / "tokens.npy").tolist()

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(tokens int32[B, L], arms uint16[B, L]) of one step."""
        rows = [self.row(step * self.batch + row) for row in range(self.batch)]
        tokens, arms = zip(*rows, strict=True)
        return np.array(tokens, np.int32), np.array(arms, np.uint16)

    def row(self, position: int) -> tuple[list[int], list[int]]:
        total = self._count("train")
        epoch, place = divmod(position, total)
        tokens = self._window("train", _permute(place, total, self.order_seed, epoch))
        arms = [0] * self.length
        edit = bisect.bisect_left(self.edits["position"], position)
        while edit < len(self.edits["position"]) and self.edits["position"][edit] == position:
            offset, length = self.edits["offset"][edit], self.edits["length"][edit]
            source = self.edits["source"][edit]
            kind = self.edits["kind"][edit]
            if kind == 0:
                text = self.tokens[source : source + length]
            elif kind == 1:
                text = self._window("reserve", source)[:length]
            else:  # 2: a controller's slot, still empty; 3: a mark, whose tokens stay
                text = tokens[offset : offset + length]
            for i in range(length):
                tokens[offset + i] = text[i]
                arms[offset + i] = 0 if kind == 2 else self.edits["arm"][edit]
            edit += 1
        return tokens, arms

    def _count(self, split: str) -> int:
        shards = (s for s in self.manifest["shards"] if s["split"] == split)
        return sum(shard["tokens"] // self.length for shard in shards)

    def _window(self, split: str, window: int) -> list[int]:
        width = np.dtype(self.manifest["dtype"]).itemsize
        place = window
        for shard in self.manifest["shards"]:
            if shard["split"] != split:
                continue
            inside = shard["tokens"] // self.length
            if 0 <= place < inside:
                with open(self.corpus / shard["name"], "rb") as file:
                    file.seek(place * self.length * width)
                    raw = file.read(self.length * width)
                return [
                    int.from_bytes(raw[i : i + width], "little") for i in range(0, len(raw), width)
                ]
            place -= inside
        raise ValueError(f"window {window} of {split} does not exist")


def differences(
    reader: PlainReader, loaded: Iterable[tuple[int, np.ndarray, np.ndarray]]
) -> list[str]:
    """One line for each token at which the loader's (step, tokens, arms) and the reader differ."""
    lines = []
    for step, tokens, arms in loaded:
        for what, ours, theirs in zip(
            ("token", "arm"), reader.step(step), (tokens, arms), strict=True
        ):
            for row, column in np.argwhere(ours != theirs):
                lines.append(
                    f"step {step} row {row} token {column}: {what} {theirs[row, column]} in the "
                    f"loader, {ours[row, column]} by the plan"
                )
    return lines


def _permute(place: int, total: int, seed: int, epoch: int) -> int:
    """The keyed Feistel permutation of order.py, once more, on Python integers."""
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
