import io

from ttoaa import progress
from ttoaa.progress import progress_bar


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
