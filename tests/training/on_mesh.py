"""Run by a test with 8 fake devices: saves and restores on meshes, and prints what it found."""

import json
import os
import pathlib
import sys

os.environ["XLA_FLAGS"] += " --xla_force_host_platform_device_count=8"

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from training.saved import abstract, bits, by_ravel, flipped, meta_of, put, same_shards, trees

from ttoaa.training import checkpoint_io
from ttoaa.training.checkpoint_io import read_checkpoint
from ttoaa.training.checkpoints import CheckpointWriter


def layout(fsdp, tensor):
    """leaf -> sharding: over both axes of fsdp x tensor devices as far as its shape divides."""
    devices = np.array(jax.devices()[: fsdp * tensor]).reshape(fsdp, tensor)
    mesh = Mesh(devices, ("fsdp", "tensor"))

    def where(leaf):
        names = ("fsdp", "tensor")[-leaf.ndim :] if leaf.ndim else ()
        fit = [
            name if not size % mesh.shape[name] else None
            for name, size in zip(names, leaf.shape, strict=False)
        ]
        return NamedSharding(mesh, P(*fit))

    return where


def restored(folder, step, where):
    params, opt = (abstract(tree, where) for tree in trees(step))
    found = read_checkpoint(folder, step, params=params, opt=opt)
    tree = (found["params"], found["opt"])
    laid = all(leaf.sharding == where(leaf) for leaf in jax.tree.leaves(tree))
    return laid and same_shards(tree, trees(step))


def flips(folder, where):
    """{file: what came of a flipped byte in it: 'good', 'damaged' or 'WRONG'}"""
    told = {}
    params, opt = (abstract(tree, where) for tree in trees(5))
    for file in flipped(folder, 12):
        writer = CheckpointWriter(folder)
        found = writer.restore_newest(params, opt, lambda meta: None)
        same = bits((found.params, found.opt)) == bits(trees(found.step))
        told.setdefault(file, []).append(("damaged", "good")[found.step == 12] if same else "WRONG")
        writer.finish()
        if found.step == 5:
            (folder / "damaged-12").rename(folder / "12")
    return told


def main(folder):
    wide = layout(4, 2)
    tree = trees(12)
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    expected = {jax.tree_util.keystr(path): by_ravel(leaf) for path, leaf in flat}
    layouts = {"4x2": wide, "2x4": layout(2, 4), "8x1": layout(8, 1), "2x1": layout(2, 1)}
    told = {
        "prints": [
            n for n, w in layouts.items() if checkpoint_io.fingerprints(put(tree, w)) != expected
        ]
    }
    big = abstract(jax.ShapeDtypeStruct((4096, 512), np.float32), wide)
    program = checkpoint_io._fingerprint_program(checkpoint_io._replicated(big))
    lowered = program.lower(big).compile()
    told["gathers"] = "all-gather" in lowered.as_text()
    told["temporary"] = lowered.memory_analysis().temp_size_in_bytes / (4096 * 512 * 4 / 8)
    writer = CheckpointWriter(folder)
    for step in (5, 12):
        params, opt = trees(step)
        writer.save(step, put(params, wide), put(opt, wide), meta_of(step))
    writer.finish()
    layouts["1x1"] = layout(1, 1)
    told["restored"] = {name: restored(folder, 12, where) for name, where in layouts.items()}
    told["flips"] = flips(folder, layouts["2x4"])
    print(json.dumps(told))


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
