"""The log of decisions: what a kill, a resume and a flipped byte make of it."""

import hashlib
import json

import pytest

from ttoaa.planning.controller_log import ControllerLog, log_table, read_log

ROOT = "ab" * 32


def record(step, slots="a", **more):
    decided = {"chosen": [step % 3], "state": {"sum": step / 3}, "log_p": [-step / 7, -0.1]}
    who = {"experiment": "known", "slots": slots, "interval": step // 4, "step": step}
    return {**who, **decided, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "decisions.jsonl"


@pytest.fixture
def heads(path):
    """The log's head before and after each of four decisions."""
    log = ControllerLog(path, ROOT)
    heads = [log.head]
    for step in (0, 4, 8, 12):
        log.append([record(step)])
        heads.append(log.head)
    return heads


def test_every_line_is_chained_to_the_one_before(path, heads):
    """By hand: the hash is that of the line's other fields, keys sorted."""
    previous = ROOT
    for raw, head, step in zip(
        path.read_text().splitlines(), heads[1:], (0, 4, 8, 12), strict=True
    ):
        line = json.loads(raw)
        told = line.pop("hash")
        assert line == {**record(step), "previous": previous}
        text = json.dumps(line, sort_keys=True)
        assert told == head == hashlib.sha256(text.encode()).hexdigest()
        previous = told
    assert heads[0] == ROOT and len(set(heads)) == 5


@pytest.mark.parametrize("kept", range(5))
def test_it_is_cut_back_to_a_head_and_goes_on_the_same(path, heads, kept):
    whole = path.read_bytes()
    log = ControllerLog(path, ROOT, heads[kept])
    assert [line["step"] for line in log.kept] == [0, 4, 8, 12][:kept]
    assert path.read_bytes() == b"".join(whole.splitlines(True)[:kept])
    for step in [0, 4, 8, 12][kept:]:
        log.append([record(step)])
    assert path.read_bytes() == whole and log.head == heads[-1]


def test_several_at_once_are_as_one_after_the_other(path, heads, tmp_path):
    log = ControllerLog(tmp_path / "other", ROOT)
    log.append([record(0), record(4)])
    log.append([record(8), record(12)])
    assert (tmp_path / "other").read_bytes() == path.read_bytes()


def test_one_that_was_taken_over_writes_nothing_more(path, heads):
    """A trainer that stood still and goes on after another has begun where it was."""
    still = ControllerLog(path, ROOT, heads[2])
    other = ControllerLog(path, ROOT, heads[2])
    still.append([record(8)])
    other.append([record(8), record(12)])
    still.append([record(12)])
    assert [line["step"] for line in read_log(path)] == [0, 4, 8, 12]


def test_without_a_head_it_begins_anew(path, heads):
    log = ControllerLog(path, ROOT)
    assert log.head == ROOT and log.kept == [] and path.read_bytes() == b""


def test_what_comes_back_is_what_was_logged(path):
    """Floats to the bit; keys and tuples as JSON has them."""
    values = [0.1 + 0.2, -1e-17, 2.0**-1074]
    log = ControllerLog(path, ROOT)
    log.append([record(0, log_p=values, state={1: (1, None), 10: [], 9: {}})])
    (line,) = read_log(path)
    assert line["log_p"] == values
    assert line["state"] == {"1": [1, None], "10": [], "9": {}}
    assert ControllerLog(path, ROOT, log.head).kept == [line]


@pytest.mark.parametrize("lost", [1, 40])
def test_a_torn_last_line_is_cut(path, heads, lost):
    path.write_bytes(path.read_bytes()[:-lost])
    assert [line["step"] for line in read_log(path)] == [0, 4, 8]
    log = ControllerLog(path, ROOT, heads[3])
    log.append([record(12)])
    assert log.head == heads[4] and len(read_log(path)) == 4


@pytest.mark.parametrize("line", [0, 1, 3])
def test_a_damaged_line_is_named(path, heads, line):
    lines = path.read_bytes().splitlines(True)
    lines[line] = lines[line].replace(b'"chosen": [', b'"chosen": [2, ')
    path.write_bytes(b"".join(lines))
    for action in (lambda: read_log(path), lambda: ControllerLog(path, ROOT, heads[-1])):
        with pytest.raises(ValueError, match=rf"decisions.jsonl is damaged: line {line + 1} ") as e:
            action()
        assert "\n" not in str(e.value)
    assert path.read_bytes() == b"".join(lines), "what cannot be told is not touched"
    # What is cut away anyway may be damaged.
    assert [x["step"] for x in ControllerLog(path, ROOT, heads[line]).kept] == [0, 4, 8, 12][:line]


@pytest.mark.parametrize("change", ["swapped", "left out", "not JSON", "another root"])
def test_a_broken_chain_is_refused(path, heads, change):
    lines = path.read_bytes().splitlines(True)
    if change == "swapped":
        lines[1], lines[2] = lines[2], lines[1]
    elif change == "left out":
        del lines[1]
    elif change == "not JSON":
        lines[1] = b"[3]\n"
    path.write_bytes(b"".join(lines))
    root = "cd" * 32 if change == "another root" else ROOT
    with pytest.raises(ValueError, match="is damaged: line"):
        ControllerLog(path, root, heads[-1])


def test_a_head_that_is_not_there_is_an_error(path, heads):
    path.write_bytes(b"".join(path.read_bytes().splitlines(True)[:2]))
    with pytest.raises(ValueError, match="misses a decision made before the checkpoint"):
        ControllerLog(path, ROOT, heads[3])
    path.unlink()
    with pytest.raises(ValueError, match="misses a decision"):
        ControllerLog(path, ROOT, heads[1])


def test_what_json_cannot_say_is_refused_and_nothing_is_written(path, heads):
    before = path.read_bytes()
    for state in ({"x": float("nan")}, {"x": {1}}):
        with pytest.raises((TypeError, ValueError)):
            ControllerLog(path, ROOT, heads[-1]).append([record(16), record(16, state=state)])
    assert path.read_bytes() == before


def test_the_table_is_of_one_experiment_up_to_a_step(path):
    log = ControllerLog(path, ROOT)
    log.append([record(0), record(0, "b"), record(0, experiment="other")])
    log.append([record(4, chosen=None, state=None), record(8)])
    found = log_table(path, "known", 4)
    assert list(found.columns) == ["interval", "step", "slots", "chosen", "log_p", "state"]
    assert found["step"].tolist() == [0, 0, 4] and found["slots"].tolist() == ["a", "b", "a"]
    assert found["chosen"].tolist() == [[0], [0], None]
    assert found["log_p"].tolist()[2] == [-4 / 7, -0.1]
    assert log_table(path.with_name("none"), "known", 4).empty
    assert list(log_table(path.with_name("none"), "known", 4).columns) == list(found.columns)


def test_a_full_disk_is_told_with_the_file(path, heads):
    log = ControllerLog(path, ROOT, heads[-1])
    log._file = open("/dev/full", "ab")  # noqa: SIM115 (the log closes it)
    with pytest.raises(OSError, match=r"No space left on device: .*decisions.jsonl"):
        log.append([record(16)])
    assert log.head == heads[-1]
