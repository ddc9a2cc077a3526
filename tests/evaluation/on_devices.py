"""Run by a test with 8 fake devices: a checkpoint on several layouts, its tables as JSON."""

import dataclasses
import json
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import jax
import numpy as np

from ttoaa import config
from ttoaa.evaluation.checkpoint_outcomes import Scores
from ttoaa.evaluation.work_list import WorkList
from ttoaa.model.sharding import Layout
from ttoaa.study_handle import StudyHandle
from ttoaa.training.throughput import Ledger
from ttoaa.workdir import Workdir

LAYOUTS = {
    "replicas": Layout(),
    "fsdp and tensor": Layout(fsdp=2, tensor=2),
    "a pod's": Layout(data=4, fsdp=16, slices=2),
}


def told_of(study, workdir):
    handle = StudyHandle(study, workdir)
    (work,) = WorkList(study, workdir, handle.plan, [30]).look()[:1]
    scores = Scores(handle)
    params = scores.restore(work)
    head = params["head"]
    table = scores.table(work, study.experiments[0], params, Ledger())
    return {
        "work": [work.kind, work.step],
        "devices": len(head.sharding.device_set),
        "shard": list(head.addressable_shards[0].data.shape),
        "items": list(table["item"]),
        "values": np.asarray(table["value"], np.float64).tolist(),
    }


if __name__ == "__main__":
    workdir = Workdir(pathlib.Path(sys.argv[1]))
    study = config.load([workdir.config])[0]
    config.cache_compilations(workdir)
    assert jax.device_count() == 8
    studies = {name: dataclasses.replace(study, layout=layout) for name, layout in LAYOUTS.items()}
    print(json.dumps({name: told_of(s, workdir) for name, s in studies.items()}))
