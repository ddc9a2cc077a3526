import json
import sys

import jax
import numpy as np
import pytest
from training.processes import free_port, together

from ttoaa.training.device_feed import local_rows, place_batch, prefetch

LAYOUTS = {
    # name: (data, fsdp, tensor), whether neighbours on the mesh lie on different processes
    "data": ((8, 1, 1), False),
    "fsdp": ((2, 4, 1), False),
    "tensor within a host": ((4, 1, 2), False),
    "tensor over two hosts": ((1, 2, 4), False),
    "tensor over all hosts": ((1, 1, 8), False),
    "interleaved": ((8, 1, 1), True),
    "interleaved tensor": ((2, 2, 2), True),
}
BATCH, LENGTH, PROCESSES, LOCAL = 16, 6, 4, 2

CHILD = """
import json, os, sys
process, port, layouts, (batch, length, processes, local) = map(json.loads, sys.argv[1:])
os.environ["XLA_FLAGS"] += f" --xla_force_host_platform_device_count={local}"
import jax, numpy as np
from ttoaa.model.sharding import AXES, batch_sharding
from ttoaa.training.device_feed import local_rows, place_batch

jax.distributed.initialize(f"localhost:{port}", processes, process)
found = {}
for name, (shape, interleaved) in layouts.items():
    grid = np.array(jax.devices()).reshape(processes, local)
    mesh = jax.sharding.Mesh((grid.T if interleaved else grid).reshape(shape), AXES)
    sharding = batch_sharding(mesh)
    rows = local_rows(sharding, (batch, length))
    whole = {
        "tokens": np.arange(batch * length, dtype=np.int32).reshape(batch, length),
        "arms": np.arange(batch * length, dtype=np.uint16).reshape(batch, length) % 7,
        "trained": np.arange(batch) % 3 > 0,
    }
    like = {
        name: jax.ShapeDtypeStruct(
            values.shape, np.int32 if name == "arms" else values.dtype, sharding=sharding
        )
        for name, values in whole.items()
    }
    share = {name: values[rows] for name, values in whole.items()} | {"step": 3}
    placed = place_batch(share, rows, like)
    assert placed.keys() == whole.keys()
    for key, values in whole.items():
        array = placed[key]
        assert (array.shape, array.dtype) == (values.shape, like[key].dtype)
        assert array.sharding == sharding
        for shard in array.addressable_shards:
            np.testing.assert_array_equal(np.asarray(shard.data), values[shard.index])
    # What all processes together hold is the batch, and by default every row of it is trained on.
    replicated = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    del share["trained"]
    everything = place_batch(share, rows, like)
    gathered = jax.jit(lambda tree: tree, out_shardings=replicated)(everything)
    np.testing.assert_array_equal(np.asarray(gathered["tokens"]), whole["tokens"])
    np.testing.assert_array_equal(np.asarray(gathered["trained"]), np.ones(batch, bool))
    found[name] = rows.tolist()
print("\\nrows", json.dumps(found))
"""


@pytest.fixture(scope="module")
def rows_of_processes():
    """By layout, the rows of each of four real processes with two devices each."""
    sizes = [BATCH, LENGTH, PROCESSES, LOCAL]
    common = [json.dumps(argument) for argument in (free_port(), LAYOUTS, sizes)]
    told = together(
        [[sys.executable, "-c", CHILD, str(process), *common] for process in range(PROCESSES)]
    )
    assert [code for code, _, _ in told] == [0] * PROCESSES, told
    found = [json.loads(out.split("rows ")[1]) for _, out, _ in told]
    return {name: [rows[name] for rows in found] for name in LAYOUTS}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_process_loads_the_rows_that_its_devices_hold(rows_of_processes, name):
    """Counted by hand: device d of the mesh has block d // tensor of the rows."""
    (data, fsdp, tensor), interleaved = LAYOUTS[name]
    size = BATCH // (data * fsdp)
    expected = [set() for _ in range(PROCESSES)]
    for place_on_mesh in range(PROCESSES * LOCAL):
        block = place_on_mesh // tensor
        process = place_on_mesh % PROCESSES if interleaved else place_on_mesh // LOCAL
        expected[process] |= set(range(block * size, (block + 1) * size))
    assert rows_of_processes[name] == [sorted(rows) for rows in expected]


def test_rows_may_lie_apart(rows_of_processes):
    assert rows_of_processes["interleaved"][1] == [2, 3, 10, 11]


@pytest.fixture
def like():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    tokens = jax.ShapeDtypeStruct((4, 3), np.int32, sharding=sharding)
    trained = jax.ShapeDtypeStruct((4,), np.bool_, sharding=sharding)
    return {"tokens": tokens, "arms": tokens, "trained": trained}


def test_one_device_takes_the_whole_batch(like):
    rows = local_rows(like["tokens"].sharding, (4, 3))
    assert rows.tolist() == [0, 1, 2, 3]
    tokens = np.arange(12, dtype=np.int32).reshape(4, 3)
    placed = place_batch(
        {"step": 0, "tokens": tokens, "arms": tokens.astype(np.uint16)}, rows, like
    )
    np.testing.assert_array_equal(placed["tokens"], tokens)
    np.testing.assert_array_equal(placed["arms"], tokens)
    assert placed["arms"].dtype == np.int32 and np.asarray(placed["trained"]).all()


def test_a_share_of_other_rows_is_refused(like):
    tokens = np.zeros((3, 3), np.int32)
    with pytest.raises(ValueError, match="share of 4 rows"):
        place_batch({"tokens": tokens, "arms": tokens}, np.arange(4), like)


@pytest.mark.parametrize("boundaries", [set(), {2}, {1, 2, 5}, {0, 6, 9}])
def test_one_batch_ahead_but_not_over_a_boundary(boundaries):
    """What was asked of the loader whenever a batch is given out."""
    asked, placed = [], []

    def batches():
        for step in range(6):
            asked.append(step)
            yield {"step": step}

    def place(batch):
        placed.append(batch["step"])
        return {"batch": batch["step"] * 10}

    given = []
    for step, batch in prefetch(batches(), place, lambda step: step in boundaries):
        given.append((step, batch["batch"]))
        last = step if step + 1 in boundaries or step == 5 else step + 1
        assert asked == placed == list(range(last + 1))
    assert given == [(step, step * 10) for step in range(6)]


def test_no_batches():
    assert list(prefetch(iter(()), lambda batch: {})) == []
