"""Digests of the tables that a report was made from, recorded in its HTML head."""

import hashlib
import html
import json
import pathlib
import re

from ttoaa.workdir import Workdir, file_sha256

_META = '<meta name="ttoaa-made-from" content="{}">'
_HEAD = 1 << 16  # bytes; one seed takes about 80


def tables_digests(root: pathlib.Path) -> dict[str, str]:
    """Return the sha256 of all outcome tables of each seed, by the name of their folder."""
    found = {}
    for folder in sorted(root.glob("tables*")):
        digest = hashlib.sha256()
        for path in sorted(folder.rglob("*.parquet")):
            digest.update(f"{path.relative_to(folder).as_posix()} {file_sha256(path)}\n".encode())
        found[folder.name] = digest.hexdigest()
    return found


def format_stamp(tables: dict[str, str], summary: bytes) -> str:
    """Return the HTML element that records the digests of the tables and of summary.json."""
    digests = {**tables, "summary.json": hashlib.sha256(summary).hexdigest()}
    return _META.format(html.escape(json.dumps(digests)))


def _read_stamp(report: pathlib.Path) -> dict[str, str]:
    """Return the digests that a report records; empty for reports of earlier versions."""
    with open(report, "rb") as file:
        head = file.read(_HEAD).decode(errors="replace")
    found = re.search(_META.format('([^"]*)'), head)
    return dict(re.findall(r'"([\w.-]+)": "(\w+)"', html.unescape(found[1]))) if found else {}


def is_current(root: pathlib.Path) -> bool:
    """Return whether the report was made from the existing tables."""
    stamp = _read_stamp(Workdir(root).report)
    return bool(stamp) and tables_digests(root).items() <= stamp.items()


def check_summary(root: pathlib.Path) -> None:
    """Raise ValueError if summary.json differs from the one written with the report."""
    folder = Workdir(root)
    for path in (folder.summary, folder.report):
        if not path.exists():
            raise ValueError(f"{path} is missing: run ttoaa report there first")
    stamp = _read_stamp(folder.report)
    if stamp.get("summary.json", file_sha256(folder.summary)) != file_sha256(folder.summary):
        raise ValueError(f"{folder.summary} is damaged: run ttoaa report there again")
