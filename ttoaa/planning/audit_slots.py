"""What controllers decided for their slots, read plainly from the files of plan and run (C6).

As `audit`, it shares no code with what made the decisions or writes them over the stream.
"""

import hashlib
import json
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Texts = dict[tuple[int, int], list[int]]
"""(item, copy) of a slot to the token ids that fill it."""


def decided(plan: pathlib.Path, run: pathlib.Path) -> tuple[Texts, int]:
    """(what fills the slots, the first step that nothing is decided for).

    Raises ValueError where the log's chain of hashes is broken.
    """
    contents = json.loads((plan / "plan.json").read_text(encoding="utf-8"))["contents"]
    index = json.loads((run / "controllers" / "index.json").read_text(encoding="utf-8"))
    tokens, starts = (np.load(run / "controllers" / f"{n}.npy") for n in ("tokens", "starts"))
    lines, texts, ends, number = _lines(run / "decisions.jsonl"), {}, [], 0
    for filling in index["fillings"]:
        item, copies = _item(plan, contents, filling["experiment"], filling["slots"])
        every, end = filling["every"], 0
        each = copies // -(-contents["geometry"]["steps"] // every)  # slots of an interval
        for line in lines:
            if (line["experiment"], line["slots"]) != (filling["experiment"], filling["slots"]):
                continue
            for k, chosen in enumerate(line["chosen"]):
                first, last = starts[number + chosen], starts[number + chosen + 1]
                texts[item, line["interval"] * each + k] = tokens[first:last].tolist()
            end = max(end, (line["interval"] + 1) * every)
        ends.append(end)
        number += filling["texts"]
    return texts, min(ends)


def _lines(path: pathlib.Path) -> list[dict[str, Any]]:
    """The whole lines of the log; a last one that a kill cut short is none."""
    lines: list[dict[str, Any]] = []
    raws = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    for raw in raws:
        line = json.loads(raw)
        told = line.pop("hash")
        text = json.dumps(line, sort_keys=True)
        whole = hashlib.sha256(text.encode()).hexdigest() == told
        if not whole or (lines and line["previous"] != lines[-1]["hash"]):
            raise ValueError(f"{path} is damaged: line {len(lines) + 1} breaks its chain of hashes")
        lines.append({**line, "hash": told})
    return lines


def _item(plan: pathlib.Path, contents: dict[str, Any], name: str, slots: str) -> tuple[int, int]:
    """(number among all items of the plan, copies) of an experiment's item."""
    with pa.OSFile(os.fspath(plan / "items" / f"{name}.parquet")) as file:
        table = pq.read_table(file, columns=["id", "repetitions"]).to_pydict()
    row = table["id"].index(slots)
    before = contents["items"][: contents["experiments"].index(name)]
    return sum(before) + row, table["repetitions"][row]
