"""A study whose runs come in piece by piece while a job evaluates it."""

import contextlib
import shutil
import threading

from ttoaa import config
from ttoaa.evaluation import job as module
from ttoaa.evaluation.watch import Patience
from ttoaa.training.metrics import FILES
from ttoaa.workdir import Workdir, write_bytes


def deliver(finished, begun, kind, step):
    """As Orbax commits a checkpoint: by a rename."""
    folder = begun / kind / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    unfinished = folder / f"{step}.orbax-checkpoint-tmp"
    shutil.copytree(finished / kind / "checkpoints" / str(step), unfinished)
    for name in FILES:
        copy_record(finished, begun, kind, f"{name}.jsonl")
    unfinished.rename(folder / str(step))


def copy_record(finished, begun, kind, name):
    """As a trainer writes it: whole or not at all."""
    write_bytes(begun / kind / name, (finished / kind / name).read_bytes())


def end(finished, begun, kind):
    for name in ("ledger.json", "provenance.json", "finished.json"):
        copy_record(finished, begun, kind, name)


def run(workdir, steps=None, experiments=(), **patience):
    study = config.only(config.load([workdir / "config.gin"])[0], experiments)
    return module.evaluate(study, Workdir(workdir), steps, Patience(poll=0.01, **patience))


def tables(workdir):
    paths = (workdir / "tables").rglob("*.parquet")
    return {str(path.relative_to(workdir / "tables")): path.read_bytes() for path in paths}


@contextlib.contextmanager
def trainer(action):
    """Runs beside what is within; what it raises is raised here."""
    faults = []

    def act():
        try:
            action()
        except BaseException as error:
            faults.append(error)

    thread = threading.Thread(target=act)
    thread.start()
    yield
    thread.join()
    assert not faults, faults
