"""Random damage to the files of a finished study: python -m tests.fuzz_records STUDY [TRIES].

Prints how often damage was refused in one line, was accepted with the same content, was accepted
with other content (must be 0), and raised another error (must be 0). STUDY is changed back.
"""

import json
import pathlib
import random
import sys

from ttoaa.json_io import read_json_lines
from ttoaa.parquet_io import outcome_source, read_outcomes
from ttoaa.planning.plan import Plan, PlanMeta
from ttoaa.training.run_records import (
    Finished,
    LedgerRecord,
    check_run,
    read_finished,
    read_ledger,
    read_provenance,
)
from ttoaa.training.throughput import read_attempts

NAMES = {
    *(Finished.__annotations__ | LedgerRecord.__annotations__ | PlanMeta.__annotations__),
    *("source", "continued", "topology", "versions", "geometry", "model", "training"),
}
OUTCOMES = ("refused", "accepted, same", "accepted, other", "traceback")


def read_run(path):
    """What commands read of a file of a run, after its check."""
    check_run(path.parent)
    readers = {"finished.json": read_finished, "ledger.json": read_ledger}
    readers["provenance.json"] = read_provenance
    if path.name in readers:
        return _values(readers[path.name](path.parent))
    return [] if path.name == "attempts.jsonl" else read_json_lines(path)


def read_table(path):
    return outcome_source(path), read_outcomes(path).to_dict("records")


def read_plan(path):
    plan = Plan.open(path.parent)
    return _values(plan.meta), {name: column.tolist() for name, column in plan.columns.items()}


def _values(record):
    """The values that commands read: neither the checksum, nor a key that a changed byte made."""
    return {name: record[name] for name in record or {} if name in NAMES}


def damage(raw, rng):
    """One byte changed, lines lost or repeated, a cut, an insertion, or a JSON value changed."""
    kind, at = rng.randrange(7), rng.randrange(len(raw))
    lines = raw.splitlines(keepends=True)
    if kind == 0:
        return raw[:at] + bytes([raw[at] ^ (1 << rng.randrange(8))]) + raw[at + 1 :]
    if kind == 1:
        digits = [i for i, byte in enumerate(raw) if 48 <= byte < 58] or [at]
        at = rng.choice(digits)
        return raw[:at] + b"%d" % rng.randrange(10) + raw[at + 1 :]
    if kind == 2:
        del lines[rng.randrange(len(lines))]
        return b"".join(lines)
    if kind == 3:
        return b"".join([*lines, rng.choice(lines)])
    if kind == 4:
        return raw[:at]
    if kind == 5:
        return raw[:at] + rng.randbytes(1 + rng.randrange(8)) + raw[at:]
    try:
        value = json.loads(raw)
        name = rng.choice(list(value))
        value = {k: v for k, v in value.items() if k != name or rng.random() < 0.5}
        if name in value:
            value[name] = rng.choice([None, 1, "x", [], {}, -0.5, [[]]])
        return json.dumps(value).encode()
    except ValueError:
        return b""


def main(root, tries):
    rng, counts = random.Random(0), dict.fromkeys(OUTCOMES, 0)
    runs = [p for kind in ("control", "run") for p in (root / kind).glob("*.json*")]
    files = {path: read_run for path in runs}
    files |= {path: read_table for path in sorted((root / "tables").glob("*/*/*.parquet"))[:4]}
    files |= {root / "plan/plan.json": read_plan}
    assert all(read_attempts(p) for p in runs if p.name == "attempts.jsonl")
    for _ in range(tries):
        path = rng.choice(list(files))
        raw, before = path.read_bytes(), files[path](path)
        path.write_bytes(damage(raw, rng))
        try:
            found = "accepted, same" if files[path](path) == before else "accepted, other"
        except ValueError as error:
            found = "refused" if "\n" not in str(error) else "traceback"
        except Exception as error:
            found = "traceback"
            print(f"{path}: {error!r}")
        finally:
            path.write_bytes(raw)
        if found == "accepted, other":
            print(f"{path}: other content")
        counts[found] += 1
    return counts


if __name__ == "__main__":
    print(main(pathlib.Path(sys.argv[1]), int((*sys.argv, "2000")[2])))
