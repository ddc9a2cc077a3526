"""Run by a test as one of two processes: noise, and what they do with checkpoints together."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import sys

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from training.saved import abstract, meta_of, put, same_shards, trees

from ttoaa.model.noise import unit_noise
from ttoaa.planning.noise import row_keys
from ttoaa.training import checkpoints
from ttoaa.training.checkpoint_io import DamagedCheckpoint, committed_steps
from ttoaa.training.checkpoints import CheckpointWriter, Keep
from ttoaa.training.multihost import from_primary, gather


@contextlib.contextmanager
def failing(error):
    """Reading checkpoint 12 fails."""
    whole = ocp.PyTreeCheckpointHandler.restore

    def fail(handler, folder, **arguments):
        if folder.parent.name == "12":
            raise error
        return whole(handler, folder, **arguments)

    ocp.PyTreeCheckpointHandler.restore = fail
    try:
        yield
    finally:
        ocp.PyTreeCheckpointHandler.restore = whole


def error_of(action):
    try:
        action()
    except ValueError as error:
        return [isinstance(error, DamagedCheckpoint), str(error)]


def full_disk(writer, save):
    """Only the primary sees it."""
    usage = shutil.disk_usage
    if jax.process_index() == 0:
        checkpoints.shutil.disk_usage = lambda path: usage(path)._replace(free=0)
    told = error_of(save)
    checkpoints.shutil.disk_usage = usage
    return told


def noise_on(mesh):
    """Hashes of the noise of four rows, two in each process."""
    sharding, keys = NamedSharding(mesh, P("data")), row_keys(5, range(4))
    placed = jax.make_array_from_callback(keys.shape, sharding, lambda index: keys[index])
    noise = jax.jit(unit_noise, static_argnums=(1, 2))(placed, 6, 8)
    (local,) = (shard.data for shard in noise.addressable_shards)
    return gather(hashlib.sha256(np.asarray(local).tobytes()).hexdigest())


def main(folder, process):
    mesh = Mesh(jax.devices(), ("data",))

    def where(leaf):
        return NamedSharding(mesh, P("data") if leaf.ndim and leaf.shape[0] % 2 == 0 else P())

    def restore(error):
        """With an error that only process 1 meets."""
        params, opt = (abstract(tree, where) for tree in trees(3))
        with failing(error) if process and error else contextlib.nullcontext():
            found = writer.restore_newest(params, opt, lambda meta: None)
        same = same_shards((found.params, found.opt), trees(found.step))
        return [found.step, found.meta["note"], same]

    told = {"primary": from_primary(lambda: process), "gathered": gather("é" * process)}
    told["noise"] = noise_on(mesh)
    writer = CheckpointWriter(folder, Keep(last=1, milestones=(3,)))
    told["whole"] = restore(None)
    told["machine"] = error_of(lambda: restore(OSError(5, "x")))
    told["untouched"] = committed_steps(folder)
    gather("looked")  # before anything is renamed
    told["damaged"] = restore(ValueError("zstd"))

    def save(step):
        params, opt = (put(tree, where) for tree in trees(step))
        meta = {**meta_of(step), "note": f"of process {process}"}
        writer.save(step, params, opt, meta)

    told["full"] = full_disk(writer, lambda: save(20))
    for step in (20, 30):
        save(step)
    writer.finish()
    gather("deleted")
    told["left"] = committed_steps(folder)
    print(json.dumps(told), flush=True)


if __name__ == "__main__":
    folder, number, port = sys.argv[1:]
    jax.distributed.initialize(
        f"localhost:{port}", 2, int(number), heartbeat_timeout_seconds=10, initialization_timeout=60
    )
    try:
        main(pathlib.Path(folder), int(number))
    except BaseException as error:
        print(repr(error), flush=True)
        os._exit(1)  # the usual exit would wait for the other process
