import contextlib
import io
import os
import termios

from ttoaa import progress
from ttoaa.progress import StepProgress, progress_bar


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(monkeypatch, stream, seconds=progress.LOG_SECONDS):
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "LOG_SECONDS", seconds)
    with progress_bar(total=500, desc="run", unit="step", ncols=80) as bar:
        for _ in range(500):
            bar.update()
    return stream.getvalue()


def test_a_log_has_few_short_lines(monkeypatch):
    first, last = shown(monkeypatch, io.StringIO()).splitlines()
    assert first.startswith("run:   0%|") and "0/500" in first
    assert last.startswith("run: 100%|") and "500/500" in last and len(last) < 120


def test_a_log_shows_every_state_that_is_due(monkeypatch):
    text = shown(monkeypatch, io.StringIO(), seconds=0)
    lines = text.splitlines()
    assert "\r" not in text and 400 < len(lines) <= 502
    assert any(" 250/500 " in line for line in lines)


def test_a_terminal_has_one_line_that_changes(monkeypatch):
    text = shown(monkeypatch, Terminal())
    assert text.count("\n") == 1 and text.startswith("\r") and "500/500" in text


def train(monkeypatch, stream):
    """What a run of 10 steps from step 2 on shows, with probes before 5 and 9, a save at 10."""
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(progress, "LOG_SECONDS", 0)
    values = {"loss": 2.5, "tokens_per_second": 12_300.0, "mfu": 0.41}
    due = {"probe": [0, 5, 9], "checkpoint": [10]}
    with StepProgress("run-s1", 2, 10, due, shown=True) as line:
        line.begin()
        for step in range(2, 10):
            line.update(values if step == 3 else {})  # none are read after a pause


def test_a_training_run_says_what_it_does(monkeypatch):
    stream = io.StringIO()
    train(monkeypatch, stream)
    first, *lines, last = stream.getvalue().splitlines()
    assert first == "run-s1: 2/10, ETA ?, compiling…"
    (line,) = [line for line in lines if "7/10" in line]
    assert line.startswith("run-s1: 7/10, ETA 00:0")
    known = "loss 2.500, 12.3k tokens/s, MFU 41.0%"
    assert line.endswith(f"{known}, next probe 9, next checkpoint 10")
    assert last.startswith("run-s1: 10/10, ETA 00:00") and last.endswith(known)


def test_it_fits_into_a_terminal(monkeypatch):
    ours, theirs = os.openpty()
    termios.tcsetwinsize(theirs, (20, 50))
    with open(theirs, "w", encoding="utf-8") as stream:
        train(monkeypatch, stream)
    shown = b""
    with contextlib.suppress(OSError):  # at the end
        while more := os.read(ours, 10_000):
            shown += more
    os.close(ours)
    states = [state.strip() for state in shown.decode().split("\r")]
    assert any("compiling…" in state for state in states)
    assert max(map(len, states)) <= 50
    assert any(state.startswith("run-s1: 10/10, ETA 00:00, loss 2.500") for state in states)


def test_a_process_that_writes_no_records_shows_nothing(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    with StepProgress("run", 0, 3, {}, shown=False) as progress:
        progress.begin()
        progress.update({"loss": 1.0})
    assert stream.getvalue() == ""
