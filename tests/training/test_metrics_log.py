import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from ttoaa.training.metrics_log import FILES, MetricsLog


def write(folder, steps, keep=-1):
    """Records that a loop makes: a metrics and an arms line a step, a probe every second."""
    records = MetricsLog(folder, keep)
    for step in steps:
        records.metrics(step, loss=1 / step, learning_rate=0.1)
        records.arms(step, {0: (2.5 * step, 10.0), 3: (0.1, 1.0)})
        if step % 2 == 0:
            records.probe(step, "canaries", "plain", [0.5, step / 3])
    return records


def lines(folder):
    return {name: (folder / f"{name}.jsonl").read_text() for name in FILES}


def test_what_is_written_is_read_back(tmp_path):
    write(tmp_path, [1, 2]).close()
    metrics, arms, probes = (
        [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        for name in FILES
    )
    assert metrics == [{"step": k, "loss": 1 / k, "learning_rate": 0.1} for k in (1, 2)]
    assert arms == [{"step": k, "arms": {"0": [2.5 * k, 10.0], "3": [0.1, 1.0]}} for k in (1, 2)]
    assert probes == [{"step": 2, "experiment": "canaries", "probe": "plain", "loss": [0.5, 2 / 3]}]


def test_a_resume_cuts_back_to_its_step(tmp_path):
    write(tmp_path / "whole", range(1, 9)).close()
    write(tmp_path / "cut", range(1, 7)).close()
    write(tmp_path / "cut", range(5, 9), keep=4).close()
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_a_fresh_start_keeps_nothing(tmp_path):
    records = MetricsLog(tmp_path, -1)
    records.metrics(0, validation_loss=3.0)
    records.close()
    MetricsLog(tmp_path, -1).close()
    assert lines(tmp_path) == dict.fromkeys(FILES, "")
    records = MetricsLog(tmp_path, -1)
    records.metrics(0, validation_loss=3.0)
    records.close()
    MetricsLog(tmp_path, 0).close()
    assert lines(tmp_path)["metrics"].count("validation_loss") == 1


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_line_that_a_kill_cut_short_is_dropped(tmp_path, cut):
    write(tmp_path / "whole", range(1, 5)).close()
    write(tmp_path / "cut", range(1, 4)).close()
    path = tmp_path / "cut/arms.jsonl"
    path.write_bytes(path.read_bytes() + (path.read_bytes().splitlines()[-1] + b"\n")[:-cut])
    write(tmp_path / "cut", [4], keep=3).close()
    assert lines(tmp_path / "cut") == lines(tmp_path / "whole")


def test_sync_puts_everything_where_another_process_reads_it(tmp_path):
    records = write(tmp_path, [1, 2])
    assert lines(tmp_path)["metrics"] == "", "it is buffered: a step costs no system call"
    records.sync()
    written = lines(tmp_path)
    assert all(text.endswith("\n") for text in written.values())
    records.close()
    assert lines(tmp_path) == written


def events(path):
    """The events of a TFRecord file: length, its checksum, content, its checksum."""
    content, at = path.read_bytes(), 0
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        yield Event.FromString(content[at + 12 : at + 12 + length])
        at += length + 16


def test_tensorboard_has_the_scalars_of_every_start(tmp_path):
    write(tmp_path, [1, 2, 3]).close()
    write(tmp_path, [3, 4], keep=2).close()
    folders = sorted((tmp_path / "tensorboard").iterdir())
    assert len(folders) == 2
    found = [
        {e.step: v.simple_value for e in events(path) for v in e.summary.value if v.tag == "loss"}
        for folder in folders
        for path in folder.iterdir()
    ]
    assert found == [pytest.approx({k: 1 / k for k in steps}) for steps in ([1, 2, 3], [3, 4])]
