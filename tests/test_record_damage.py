"""Damage to each file of a finished study: named in one line, or of no consequence."""

import contextlib
import io
import json

import pytest
import studies
from damage import DAMAGES, cut_in_half, delete, empty, flip_byte

from ttoaa import evaluate, report, status
from ttoaa.checksums import KEY
from ttoaa.workdir import write_json

pytestmark = pytest.mark.usefixtures("sketched")

TABLE = "tables/run/00000030/late.parquet"
"""Made by `evaluate` in each case."""
SECONDS = "tables/ledger.json"
OUTPUTS = (TABLE, SECONDS, "report.html", "summary.json")
FILES = [
    *("run/finished.json", "run/ledger.json", "run/provenance.json", "run/attempts.jsonl"),
    *("run/metrics.jsonl", "run/arms.jsonl", "run/probes.jsonl"),
    *("control/finished.json", "control/metrics.jsonl", "control/probes.jsonl"),
    *("plan/plan.json", "plan/ledger.json", "plan/columns/position.npy"),
    *("plan/items/planted.parquet", "plan/index/keys.npy"),
    *("corpus/manifest.json", "corpus/ledger.json", "corpus/tokenizer.json"),
    *("corpus/train-00000.bin", "tables/ledger.json", "tables/control/00000030/late.parquet"),
]


def lose_key(path):
    content = json.loads(path.read_text())
    name = sorted(name for name in content if name != KEY)[0]
    write_json(path, {key: value for key, value in content.items() if key != name})


def wrong_type(path):
    content = json.loads(path.read_text())
    name = sorted(name for name in content if name != KEY)[0]
    write_json(path, {**content, name: [None]})


def other_structure(path):
    path.write_text("[1]\n")


def damages(name):
    """Three kinds of damage, other ones for the next file; fuzz_records.py tries them at random."""
    kinds = [*DAMAGES, lose_key, wrong_type, other_structure]
    if name.endswith((".npy", ".bin", ".parquet")):
        kinds = [flip_byte, cut_in_half, empty, delete]
    elif name.endswith(".jsonl"):
        kinds = DAMAGES
    first = 3 * FILES.index(name)
    return [kinds[(first + k) % len(kinds)] for k in range(3)]


@pytest.fixture(scope="module")
def study(finished, tmp_path_factory):
    """A copy of seed 0 without one table, and what the commands make of it."""
    parts = ("plan", "control", "run", "tables", "report.html", "summary.json")
    root = studies.copy(finished[0], tmp_path_factory.mktemp("damaged") / "work", *parts)
    (root / TABLE).unlink()
    assert said(evaluate, root).startswith("evaluate: 1 tables written")
    said(report, root)
    return root, results(root), status_text(root)


def said(module, root):
    """What a command prints, or its one line of error."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        left = studies.main(module, root)
    if isinstance(left, str):
        assert "\n" not in left
        return left
    return out.getvalue()


def status_text(root):
    try:
        state = status.read(root)
    except (ValueError, OSError) as error:
        return f"status: {error}"
    for lease in state["seeds"][0]["running"]:
        del lease["seconds"], lease["quiet_seconds"]
    return "\n".join(status.lines(state))


def results(root):
    names = (TABLE, "summary.json", "report.html")
    return {name: (root / name).read_bytes() for name in names if (root / name).exists()}


@pytest.mark.parametrize("name", FILES)
def test_damage_is_named_or_of_no_consequence(study, name):
    root, made, before = study
    saved = {root / each: (root / each).read_bytes() for each in (name, *OUTPUTS)}
    for damage in damages(name):
        try:
            damage(root / name)
            _check(root, name, made, saved, damage.__name__)
        finally:
            for path, content in saved.items():
                path.write_bytes(content)
    assert status_text(root) == before


def _check(root, name, made, saved, damage):
    def names(text):
        return name in text or f"{(root / name).parent}" in text

    (root / TABLE).unlink()
    evaluated = said(evaluate, root)
    if (root / TABLE).exists():
        assert (root / TABLE).read_bytes() == made[TABLE] or names(evaluated), (damage, evaluated)
        if name != SECONDS:  # of this scoring
            (root / SECONDS).write_bytes(saved[root / SECONDS])
    else:
        assert evaluated.startswith("evaluate: ") and names(evaluated), (damage, evaluated)
        (root / TABLE).write_bytes(made[TABLE])
    assert "Traceback" not in status_text(root)
    (root / "report.html").unlink()
    reported = said(report, root)
    assert names(reported) or results(root) == made, (damage, reported)
    if (root / "report.html").exists():
        assert results(root)["summary.json"] == made["summary.json"], (damage, reported)
