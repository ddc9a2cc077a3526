"""Structure and checksums of the files of a run that other commands read (contract C12).

JSON-lines files only grow. A checkpoint's meta records their digests at its step, which verify
their first bytes. finished.json records the digests of all complete files.
"""

import pathlib
from collections.abc import Mapping
from typing import Any, NotRequired, Required, TypedDict

from ttoaa.checksums import FileDigest, check_file, digest_file, read_record, write_record
from ttoaa.json_io import mismatch
from ttoaa.planning.controller_log import SLOT_TEXTS_FOLDER
from ttoaa.planning.injection import SHAM_WINDOWS
from ttoaa.training.checkpoint_io import newest_meta

FINISHED, LEDGER, PROVENANCE = "finished.json", "ledger.json", "provenance.json"
ATTEMPTS = "attempts.jsonl"
GROWING = ("metrics.jsonl", "arms.jsonl", "probes.jsonl")
_INDEX = f"{SLOT_TEXTS_FOLDER}/index.json"  # holds the digests of the texts

_RESTORE = "restore it from a copy, or move that run's folder away and train again"
_FIXES = {
    ATTEMPTS: "restore it from a copy, or remove it to continue without the goodput",
    LEDGER: f"restore it from a copy, or remove {FINISHED} next to it and train again, which "
    "writes both from the last checkpoint",
}


class MetricsLine(TypedDict):
    """A line of metrics.jsonl; other keys are names of metrics. None: not finite."""

    step: int
    loss: NotRequired[float | None]
    validation_loss: NotRequired[float | None]
    tokens_per_second: NotRequired[float | None]
    skipped: NotRequired[float | None]


class ArmsLine(TypedDict):
    """A line of arms.jsonl: each arm's loss summed over its targets, and their number."""

    step: int
    arms: dict[str, list[float | None]]


class ProbesLine(TypedDict):
    """A line of probes.jsonl: the loss of each row of a probe."""

    step: int
    experiment: str
    probe: str
    loss: list[float | None]


class _Provenance(TypedDict):
    source: dict[str, Any]
    continued: NotRequired[list[dict[str, Any]]]


class Finished(TypedDict):
    """finished.json; runs of earlier versions have no records."""

    step: int
    identity: dict[str, Any]
    records: NotRequired[dict[str, FileDigest]]


def read_finished(run: pathlib.Path) -> Finished | None:
    """Read finished.json; None if the run has not ended. Raises ValueError if it is damaged."""
    path = run / FINISHED
    if not path.exists():
        return None
    return read_record(path, Finished, "restore it from a copy, or remove it and train again")


class LedgerRecord(TypedDict, total=False):
    """ledger.json of a command; a run's has all keys, other commands' only the seconds."""

    seconds: Required[dict[str, float]]
    incomplete: bool
    """Whether earlier seconds were lost."""
    goodput: float
    tokens: int
    flops: float
    devices: int
    device_kind: str
    parameters: int


def read_ledger(folder: pathlib.Path) -> Any:
    """Read the ledger of a command's folder, a `LedgerRecord`; empty if there is none."""
    path = folder / LEDGER
    fix = "restore it from a copy, or remove it: the report then names it as missing"
    return read_record(path, LedgerRecord, fix) if path.exists() else {}


def read_provenance(run: pathlib.Path) -> dict[str, Any]:
    """Read provenance.json; empty without one. Raises ValueError for a damaged one."""
    path = run / PROVENANCE
    return read_record(path, _Provenance, _RESTORE) if path.exists() else {}


def write_finished(
    run: pathlib.Path, step: int, identity: Mapping[str, Any], grown: Mapping[str, FileDigest]
) -> None:
    """Write finished.json; `grown` are the digests of the JSON-lines files."""
    others = [n for n in (LEDGER, PROVENANCE, _INDEX, SHAM_WINDOWS) if (run / n).exists()]
    records = {**grown, **{name: digest_file(run / name) for name in others}}
    value: Finished = {"step": step, "identity": dict(identity), "records": records}
    write_record(run / FINISHED, value)


def check_grown(run: pathlib.Path, meta: Mapping[str, Any]) -> dict[str, bytes]:
    """Return the content of the JSON-lines files, by name, when a checkpoint was saved.

    The result is empty for checkpoints of earlier versions, which have no digests. A missing
    attempts.jsonl is accepted. Raises ValueError, naming the file, if one is damaged.
    """
    records = meta.get("records", {})
    wrong = mismatch(records, dict[str, FileDigest])
    if wrong:
        raise ValueError(f"the records of the newest checkpoint in {run} {wrong}: {_RESTORE}")
    there = [name for name in records if name != ATTEMPTS or (run / name).exists()]
    return {name: _check(run, name, records[name], whole=False) for name in there}


def check_run(run: pathlib.Path) -> str:
    """Raise ValueError, naming the file, if a record of a run is damaged or missing.

    Returns a one-line notice for a run of an earlier version, whose records have no checksums,
    otherwise ''.
    """
    finished = read_finished(run)
    if finished is None:
        meta = newest_meta(run / "checkpoints")
        if meta:
            check_grown(run, meta)
        return ""
    for name, digest in finished.get("records", {}).items():
        _check(run, name, digest, whole=True)
    if "records" in finished:
        return ""
    for name in GROWING:
        if not (run / name).exists():
            raise ValueError(f"{run / name} is missing: {_RESTORE}")
    return (
        f"{run} was finished by an earlier version, which wrote no checksums: "
        "damage to its records is not detected"
    )


def _check(run: pathlib.Path, name: str, digest: FileDigest, whole: bool) -> bytes:
    return check_file(run / name, digest, _FIXES.get(name, _RESTORE), whole)
