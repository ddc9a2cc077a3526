"""What trackers show of a run, with stand-ins for the packages of Weights & Biases and trackio."""

import collections
import json
import pathlib
import struct
import sys
import types

import numpy as np
import pytest
import studies
from tensorboardX.proto.event_pb2 import Event
from training.conftest import TIMES, make_job, params_at, records, same_bits
from training.test_loop import Crash, crash_at

from ttoaa import train as command
from ttoaa.locks import running_trainer
from ttoaa.training import trackers
from ttoaa.training.loop import train
from ttoaa.training.tracker_rows import TrackerRows
from ttoaa.training.trackers import TensorBoard, Tracking

ARMS = {0: "corpus/loss", 1: "canaries/loss/4x", 2: "canaries/loss/16x", 3: "forgetting/loss/1x"}


class Run:
    """A run of a tracker that refuses a step it has, as trackers do or should."""

    def __init__(self, rows, server):
        self.rows, self.server = rows, server
        self.starting_step = self._next_step = max(rows, default=-1) + 1

    def log(self, row, step, commit=True):
        assert commit and step > max(self.rows, default=-1)
        if step == self.server.fails_at:
            raise ConnectionError("the network is down")
        self.rows[step] = row

    def finish(self, exit_code=0):
        self.server.exits.append(exit_code)


class Server:
    """What wandb.ai, or a database of trackio, keeps: the rows of each run by its step."""

    def __init__(self, mode="online"):
        self.mode, self.login, self.fails_at = mode, True, None
        self.runs, self.exits, self.configs = {}, [], []

    def wandb(self):
        settings = types.SimpleNamespace(mode=self.mode)
        return types.SimpleNamespace(
            setup=lambda: types.SimpleNamespace(settings=settings),
            login=lambda prompt, verify: self.login and not (prompt or verify),
            Settings=lambda **settings: settings,
            init=self._init_wandb,
        )

    def trackio(self):
        return types.SimpleNamespace(init=self._init_trackio)

    def _init_wandb(self, project, group, name, id, resume, dir, config, settings):
        assert (resume, settings["console"]) == ("allow", "off")
        self.configs.append(json.loads(json.dumps(config)))
        if self.login is None:
            raise ConnectionError("the network is down\nand stays so")
        key = project, group, name, id
        if self.mode == "offline":  # as of 0.31: what is there is neither read nor continued
            path = pathlib.Path(dir) / "wandb" / f"offline-run-{len(self.exits)}-{id}"
            path.mkdir(parents=True)
            self.runs = {path: rows for path, rows in self.runs.items() if path.exists()}
            key = path
        return Run(self.runs.setdefault(key, {}), self)

    def _init_trackio(self, project, name, group, config, resume, embed):
        assert (resume, embed) == ("allow", False)
        return Run(self.runs.setdefault((project, group, name), {}), self)

    def shown(self):
        """The rows of the only run, without what depends on the time."""
        (rows,) = self.runs.values()
        return {step: {k: v for k, v in rows[step].items() if k not in TIMES} for step in rows}


@pytest.fixture(params=["wandb", "offline", "trackio"])
def server(request, monkeypatch):
    server = Server(request.param)
    server.kind = "trackio" if request.param == "trackio" else "wandb"
    monkeypatch.setitem(sys.modules, server.kind, getattr(server, server.kind)())
    return server


def tracked(folder, server, **changes):
    tracking = Tracking(server.kind, "study", "workdir", ARMS)
    return make_job(folder, tracking=tracking, **changes)


def rows_of(folder):
    """The rows that trackers should show of a run, by hand from its records."""
    rows, found = collections.defaultdict(dict), records(folder)
    for line in found["metrics"]:
        rows[line["step"]] |= {name: line[name] for name in line if name != "step"}
    for line in found["arms"]:
        losses = {ARMS[int(arm)]: loss / count for arm, (loss, count) in line["arms"].items()}
        rows[line["step"]] |= losses
    for line in found["probes"]:
        name = f"{line['experiment']}/probe/{line['probe']}"
        rows[line["step"]][name] = float(np.mean(line["loss"]))
    return rows


def test_a_killed_run_is_one_run_there_with_each_row_once(whole, tmp_path, server):
    """Killed before the first checkpoint, after one, and with rows that did not arrive."""
    for at in (3, 10):
        with pytest.raises(Crash):
            train(tracked(tmp_path, server, batches=crash_at(at)))
    (rows,) = server.runs.values()
    if server.kind == "wandb" and server.mode == "online":
        assert max(rows) == 9, "rows after the checkpoint arrived, and come only once"
    else:
        for step in [step for step in rows if step > 5]:
            del rows[step]
    train(tracked(tmp_path, server))
    assert list(server.shown()) == list(range(13))
    assert server.shown() == rows_of(whole)
    names = {"loss", "corpus/loss", "canaries/loss/16x", "canaries/probe/often"}
    assert names < server.shown()[4].keys()
    assert records(tmp_path) == records(whole)
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12)), "no bit differs for a tracker"
    assert server.kind == "trackio" or server.exits == [1, 1, 0]
    assert all(config["plan"] == "p0" for config in server.configs)


def test_a_tracker_that_fails_ends_no_run_and_gets_the_rest_later(
    whole, tmp_path, monkeypatch, capsys
):
    server = Server()
    server.kind = "wandb"
    monkeypatch.setitem(sys.modules, "wandb", server.wandb())
    server.fails_at = 6
    train(tracked(tmp_path, server))
    printed = capsys.readouterr().out
    assert "WandB fails (the network is down) and gets no more rows" in printed
    assert records(tmp_path) == records(whole) and max(server.shown()) == 5
    server.fails_at = None
    rows = TrackerRows(
        trackers.open_tracker(tmp_path, "test", {}, tracked("", server).tracking), ARMS
    )
    rows.fill_up(tmp_path, 12)
    assert server.shown() == rows_of(whole) and not rows.failed


def test_a_tracker_that_does_not_open_ends_a_new_run_but_no_resume(
    whole, begun, tmp_path, monkeypatch, capsys
):
    server = Server()
    server.kind, server.login = "wandb", None
    monkeypatch.setitem(sys.modules, "wandb", server.wandb())
    with pytest.raises(ValueError) as error:
        train(tracked(tmp_path / "new", server))
    assert str(error.value) == "--tracker=wandb fails: the network is down"
    train(tracked(begun, server))
    assert "--tracker=wandb fails: the network is down; training continues" in (
        capsys.readouterr().out
    )
    assert records(begun) == records(whole)


@pytest.mark.parametrize("kind", ["wandb", "trackio"])
def test_a_missing_package_or_login_is_one_line(kind, monkeypatch):
    monkeypatch.setitem(sys.modules, kind, None)
    with pytest.raises(ValueError, match=rf"^--tracker={kind} needs .* 'ttoaa\[{kind}\]' .*$"):
        trackers.check(kind)
    server = Server()
    monkeypatch.setitem(sys.modules, kind, getattr(server, kind)())
    trackers.check(kind)
    server.login = False
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/runs")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ValueError, match=rf"^--tracker={kind}: .*login"):
        trackers.check(kind)
    server.mode = "offline"
    monkeypatch.setitem(sys.modules, "wandb", server.wandb())
    trackers.check("wandb")


def test_the_command_refuses_first_and_sends_the_records_of_a_finished_run(
    finished, tmp_path, monkeypatch, capsys
):
    workdir = studies.copy(finished[0], tmp_path / "mine", "plan", "run")
    monkeypatch.setitem(sys.modules, "wandb", None)
    refused = studies.main(command, workdir, "--run=control", "--tracker=wandb")
    assert refused.startswith("train: --tracker=wandb needs the package wandb")
    assert not (workdir / "control/metrics.jsonl").exists()
    server, locked = Server(), []
    show = TrackerRows.add

    def add(self, *line):
        locked.append(running_trainer(workdir / "run") is not None)
        show(self, *line)

    monkeypatch.setattr(TrackerRows, "add", add)
    monkeypatch.setitem(sys.modules, "wandb", server.wandb())
    for _ in range(2):  # the second time, all of them are there
        assert studies.main(command, workdir, "--run=run", "--tracker=wandb") == 0
        assert "run is finished already; its records are in wandb" in capsys.readouterr().out
    assert all(locked), "a second command would send them too"
    ((project, group, name, _),) = server.runs
    assert (project, group, name) == ("tiny", "mine", "run")
    shown = server.shown()
    assert list(shown) == list(range(studies.STEPS + 1))
    names = {name for row in shown.values() for name in row}
    assert {"planted/loss/1x", "planted/loss/4x", "late/loss/4x", "corpus/loss"} < names
    assert {"planted/probe/first", "forgetting/probe/at-0.4"} < names


def events(path):
    """The events of a TFRecord file: length, its checksum, content, its checksum."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += length + 16


def on_board(folder):
    """The rows of each start."""
    rows = []
    for start in sorted((folder / "tensorboard").iterdir()):
        (path,) = start.iterdir()
        found = [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in events(path)]
        rows.append({step: row for step, row in found if row})
    return rows


def write(folder, steps, last, rows=None):
    """Send a metrics and an arms line of these steps to TensorBoard, and a probe of step 2."""
    rows = rows or TrackerRows([TensorBoard(folder / "tensorboard", last)], ARMS)
    for step in steps:
        rows.add("metrics", {"step": step, "loss": 1 / step, "grad_norm": None})
        rows.add("arms", {"step": step, "arms": {"0": [2.5 * step, 10.0], "7": [0.1, 1.0]}})
        if step == 2:
            probe = {"step": 2, "experiment": "canaries", "probe": "plain", "loss": [0.5, 1.5]}
            rows.add("probes", probe)
    return rows


def test_tensorboard_has_one_event_a_step_of_every_start(tmp_path):
    rows = write(tmp_path, [1, 2, 3], -1)
    rows.sync()
    (first,) = on_board(tmp_path)
    assert list(first) == [1, 2, 3], "a kill after a checkpoint loses none"
    write(tmp_path, [4], 3, rows).close(finished=False)
    (first,) = on_board(tmp_path)
    assert list(first) == [1, 2, 3], "step 4 may lack a probe"
    write(tmp_path, [4, 5], 3).close(finished=True)
    assert [list(start) for start in on_board(tmp_path)] == [[1, 2, 3], [4]]
    names = sorted(path.name for path in (tmp_path / "tensorboard").iterdir())
    assert names == ["00", "01-from-3"]
    assert first[2] == {
        **{"loss": 0.5, "grad_norm": pytest.approx(np.nan, nan_ok=True), "corpus/loss": 0.5},
        **{"arm-7/loss": pytest.approx(0.1), "canaries/probe/plain": 1.0},
    }


def test_tensorboard_shows_what_a_run_took_over_from_another(whole, begun):
    """A what-if run has the records of the run that it continues, but not its event files."""
    board = TensorBoard(begun / "other", 8)
    rows = TrackerRows([board], ARMS)
    rows.fill_up(begun, 8)
    rows.close(finished=False)
    (start,) = (begun / "other").iterdir()
    (path,) = start.iterdir()
    steps = [event.step for event in events(path) if event.summary.value]
    assert steps == sorted(rows_of(whole))
