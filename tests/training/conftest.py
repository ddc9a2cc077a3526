"""Small training jobs on batches made up from the step alone."""

import dataclasses
import json
import shutil
from typing import ClassVar

import jax
import numpy as np
import pytest

from ttoaa.data.geometry import Geometry
from ttoaa.experiments.base import Probe
from ttoaa.model.compute_config import PLAIN
from ttoaa.model.decoder import DecoderConfig, abstract_params
from ttoaa.model.sharding import Layout, make_mesh
from ttoaa.training.checkpoint_io import read_checkpoint
from ttoaa.training.checkpoints import Keep
from ttoaa.training.config import Training
from ttoaa.training.job import Job
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.metrics import FILES
from ttoaa.training.optimizer import AdamW
from ttoaa.training.step import CompiledStep

MODEL = DecoderConfig(vocab_size=31, layers=1, width=16, heads=2, hidden=24, init_std=0.1)
GEOMETRY = Geometry(length=10, batch=4, steps=12)
TRAINING = Training(
    AdamW(ConstantLinear(0.02, warmup=2)), max_arms=8, checkpoint_every=4, validate_every=5
)
TIMES = ("tokens_per_second", "mfu", "goodput")


def make_batch(step):
    rng = np.random.default_rng([7, step])
    tokens = rng.integers(0, MODEL.vocab_size, (GEOMETRY.batch, GEOMETRY.length))
    arms = rng.integers(0, 4, tokens.shape)
    return {"step": step, "tokens": tokens.astype(np.int32), "arms": arms.astype(np.uint16)}


def batches(start, rows, before=lambda step: None):
    """`before(step)` is called when the batch of that step is taken."""
    for step in range(start, GEOMETRY.steps):
        before(step)
        whole = make_batch(step)
        yield {name: x if name == "step" else x[rows] for name, x in whole.items()}


class TracedOnce(CompiledStep):
    """A step that all jobs of a session share whose compiled step is the same."""

    compiled: ClassVar = {}

    def compile(self, noisy=False):
        rest = {"checkpoint_every": 1, "validate_every": 1, "keep": Keep()}  # no part of the step
        # By its text: fields that hold lists cannot be hashed, and the mesh is part of the text.
        same = dataclasses.replace(self, training=dataclasses.replace(self.training, **rest))
        key = noisy, repr(same)
        if key not in self.compiled:
            self.compiled[key] = super().compile(noisy)
        return self.compiled[key]


def make_program(model=MODEL, training=TRAINING, execution=PLAIN, layout=None):
    return TracedOnce(model, training, GEOMETRY, execution, make_mesh(layout or Layout()))


def make_job(folder, **changes):
    rows = np.random.default_rng(8).integers(0, MODEL.vocab_size, (6, GEOMETRY.length))
    rows = rows.astype(np.int32)
    job = Job(
        folder=folder,
        seed=1,
        program=make_program(),
        identity={"corpus": "c0", "plan": "p0"},
        batches=batches,
        probes=[
            ("canaries", Probe("often", rows[:3], (0, 1, 4, 7, 12))),
            ("forgetting", Probe("late", rows[3:4], [8, 9])),
        ],
        validation_NxL=rows[4:],
        label="test",
        config="Study.name = 'test'",
    )
    return dataclasses.replace(job, **changes)


def records(folder):
    """All JSON lines, without what depends on the time."""
    found = {}
    for name in FILES:
        lines = [json.loads(line) for line in (folder / f"{name}.jsonl").read_text().splitlines()]
        found[name] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return found


def params_at(folder, step):
    tree = read_checkpoint(folder / "checkpoints", step, params=abstract_params(MODEL))["params"]
    return jax.tree.map(np.asarray, tree)


def same_bits(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), one, other)))


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted."""
    from ttoaa.training.loop import train

    folder = tmp_path_factory.mktemp("whole") / "run"
    train(make_job(folder))
    return folder


@pytest.fixture
def begun(whole, tmp_path):
    """A copy of the run as a kill just after step 8's checkpoint leaves it."""
    folder = shutil.copytree(whole, tmp_path / "begun")
    shutil.rmtree(folder / "checkpoints/12")
    (folder / "finished.json").unlink()
    return folder
