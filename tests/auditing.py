"""Imported by a test's gin file: notes what jobs and trainer do, as JSON lines in <workdir>/audit.

Only where $TTOAA_TEST_AUDIT is set: the seconds that every outcome then takes at least.
"""

import contextlib
import json
import os
import pathlib
import sys
import time

_SECONDS = os.environ.get("TTOAA_TEST_AUDIT")


def _note(what, **told):
    line = json.dumps({"what": what, "process": os.getpid(), "time": time.time(), **told}) + "\n"
    file = os.open(_AUDIT, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, line.encode())  # one write: lines of several processes do not mix
    os.close(file)


def _steps(folder):
    return {path.name for path in folder.iterdir() if path.name.isdecimal()}


if _SECONDS is not None:
    from ttoaa import parquet_io
    from ttoaa.evaluation import checkpoint_outcomes
    from ttoaa.training import checkpoints

    (_WORKDIR,) = (a.partition("=")[2] for a in sys.argv if a.startswith("--workdir="))
    _AUDIT = pathlib.Path(_WORKDIR) / "audit"
    _pin, _table, _write, _delete = (
        checkpoint_outcomes.pin,
        checkpoint_outcomes.Scores.table,
        parquet_io.write_outcomes,
        checkpoints.delete_checkpoints,
    )

    @contextlib.contextmanager
    def pin(folder, step):
        with _pin(folder, step):
            began = time.time()
            _note("pin", run=folder.parent.name, step=step)
            yield
            _note("unpin", run=folder.parent.name, step=step, began=began)

    def table(self, work, experiment, params, ledger):
        _note("begin", run=work.kind, step=work.step, experiment=experiment.name)
        time.sleep(float(_SECONDS))
        return _table(self, work, experiment, params, ledger)

    def write(frame, path, source):
        _write(frame, path, source)
        run, step = path.parts[-3:-1]
        _note("commit", run=run, step=int(step), experiment=path.stem)

    def delete(folder, steps):
        before, began = _steps(folder), time.time()
        _delete(folder, steps)
        for step in sorted(before - _steps(folder)):
            _note("delete", run=folder.parent.name, step=int(step), began=began)

    checkpoint_outcomes.pin, checkpoint_outcomes.Scores.table = pin, table
    parquet_io.write_outcomes, checkpoints.delete_checkpoints = write, delete
