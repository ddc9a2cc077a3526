import errno
import gc
import logging
import shutil
import time

import aiohttp
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
import pytest
from orbax.checkpoint._src.path import atomicity
from training.saved import abstract, bits, flipped, meta_of, put, trees

from ttoaa.training import checkpoints
from ttoaa.training.checkpoint_io import (
    CheckpointError,
    DamagedCheckpoint,
    committed_steps,
    newest_meta,
    read_checkpoint,
    read_meta,
)
from ttoaa.training.checkpoints import CheckpointWriter, Keep

# Orbax leaves coroutines behind when a read fails; they are collected here, not in other tests.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def collect():
    yield
    gc.collect()


def save(folder, steps):
    writer = CheckpointWriter(folder)
    for step in steps:
        writer.save(step, *put(trees(step)), meta_of(step))
    writer.finish()
    return folder


def restore(folder, check=lambda meta: None):
    params, opt = trees(0)
    writer = CheckpointWriter(folder)
    found = writer.restore_newest(abstract(params), abstract(opt), check)
    writer.finish()
    return found


def assert_restored(found, step):
    params, opt = trees(step)
    assert found[0] == step
    assert bits(found[1:3]) == bits((params, opt))
    assert found[3]["step"] == step and found[3]["ledger"] == {"step": 0.1 + step}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Checkpoints of steps 3 and 12; whoever damages them takes a copy."""
    return save(tmp_path_factory.mktemp("checkpoints") / "two", [3, 12])


@pytest.fixture
def copied(two, tmp_path):
    return shutil.copytree(two, tmp_path / "copied")


def test_round_trip_to_the_bit(two):
    assert committed_steps(two) == [3, 12]
    assert_restored(restore(two), 12)
    params, _ = trees(3)
    alone = read_checkpoint(two, 3, params=abstract(params))
    assert list(alone) == ["params"] and bits(alone["params"]) == bits(params)
    assert newest_meta(two)["step"] == 12 and newest_meta(two)["note"] == "é"


def test_what_is_saved_is_what_was_there_when_asked(tmp_path):
    """The training step gives its buffers away while the save still runs."""
    params, opt = put(trees(1))
    writer = CheckpointWriter(tmp_path)
    writer.save(1, params, opt, {"step": 1, "ledger": {"step": 1.1}})
    clobber = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    jax.block_until_ready(clobber((params, opt)))
    writer.finish()
    assert_restored(restore(tmp_path), 1)


def test_nothing_there_is_no_checkpoint(tmp_path):
    assert committed_steps(tmp_path / "none") == []
    assert newest_meta(tmp_path / "none") is None
    assert restore(tmp_path / "none") is None


def files_of(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())


def test_a_flipped_byte_anywhere_is_harmless_or_seen(copied, caplog):
    """In every file, at its start, middle and end."""
    seen, harmless = set(), set()
    for file in flipped(copied, 12):
        caplog.clear()
        found = restore(copied)
        assert_restored(found, found.step)
        if found.step == 12:
            harmless.add(file)
        else:
            assert committed_steps(copied) == [3]
            assert "checkpoint 12" in caplog.text and "damaged-12" in caplog.text
            seen.add(file)
            (copied / "damaged-12").rename(copied / "12")
    assert "meta/metadata" in seen - harmless
    assert any(name.startswith("params/") for name in seen), "arrays must have been damaged too"


@pytest.mark.parametrize("keep", [0.0, 0.5])
def test_truncated_files_are_harmless_or_seen(two, tmp_path, keep):
    for number, file in enumerate(files_of(two / "12")):
        folder = shutil.copytree(two, tmp_path / f"cut-{number}")
        path = folder / "12" / file
        path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
        found = restore(folder)
        assert_restored(found, found[0])


def test_every_single_changed_digit_of_the_meta_is_seen(copied):
    path = copied / "12/meta/metadata"
    content = path.read_text()
    places = [i for i, c in enumerate(content) if c.isdigit()][::17]
    for place in places:
        changed = str((int(content[place]) + 1) % 10)
        path.write_text(content[:place] + changed + content[place + 1 :])
        with pytest.raises(
            DamagedCheckpoint, match=r"checkpoint 12 in .*copied (is damaged|has no meta)"
        ):
            read_meta(copied, 12)
        assert newest_meta(copied)["step"] == 3
    path.write_text(content)
    assert read_meta(copied, 12)["step"] == 12


def test_all_damaged_is_an_error_every_time_and_changes_nothing(copied):
    for step in (3, 12):
        shutil.rmtree(copied / str(step) / "params")
    before = files_of(copied)
    for _ in range(2):
        with pytest.raises(CheckpointError) as error:
            restore(copied)
        text = str(error.value)
        assert "all 2 checkpoints are damaged" in text and "checkpoint 12" in text
        assert text.endswith("move that folder away to start again") and "\n" not in text
    assert files_of(copied) == before


@pytest.mark.parametrize("pattern", ["meta/metadata", "params/manifest.ocdbt", "params/**/d/*"])
def test_a_disk_that_fails_is_no_damage(copied, pattern):
    """Links to themselves: the operating system fails to open them, in Python and in C++."""
    for path in [path for path in (copied / "12").glob(pattern) if path.is_file()]:
        path.unlink()
        path.symlink_to(path.name)
    params, _ = trees(0)
    with pytest.raises(CheckpointError, match=r"checkpoint 12 .*: Too many levels of sym") as error:
        restore(copied)
    assert not isinstance(error.value, DamagedCheckpoint) and "\n" not in str(error.value)
    assert committed_steps(copied)[0] == 3 and (copied / "12").exists()
    with pytest.raises(CheckpointError, match="Too many levels"):
        read_checkpoint(copied, 12, params=abstract(params))


def wrapped(error):
    try:
        try:
            raise error
        except BaseException as inner:
            raise ValueError("pages\nof Orbax") from inner
    except ValueError as outer:
        return outer


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EIO, "x"), "Input/output error"),
        (wrapped(OSError(errno.ESTALE, "x")), "Stale file handle"),
        (wrapped(PermissionError(errno.EACCES, "x")), "Permission denied"),
        (MemoryError(), "Cannot allocate memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory while trying"), "Cannot allocate memory"),
        (wrapped(ValueError("UNAVAILABLE: CURL error")), "Input/output error"),
        (wrapped(aiohttp.ClientError("x")), "Input/output error"),
        (wrapped(FileNotFoundError(errno.ENOENT, "x")), None),
        (KeyError("x"), None),
    ],
)
def test_a_fault_of_the_machine_ends_the_run(copied, monkeypatch, error, reason):
    restore_ = ocp.PyTreeCheckpointHandler.restore

    def fail(handler, folder, **arguments):
        if folder.parent.name == "12":
            raise error
        return restore_(handler, folder, **arguments)

    monkeypatch.setattr(ocp.PyTreeCheckpointHandler, "restore", fail)
    if reason is None:
        assert_restored(restore(copied), 3)
        assert (copied / "damaged-12").exists()
        return
    with pytest.raises(CheckpointError, match=f"checkpoint 12 in .* cannot be read: {reason}: fix"):
        restore(copied)
    assert committed_steps(copied) == [3, 12]


def test_a_step_can_be_saved_again_after_its_checkpoint_was_set_aside(copied):
    shutil.rmtree(copied / "12/opt")
    params, opt = trees(0)
    writer = CheckpointWriter(copied)
    assert writer.restore_newest(abstract(params), abstract(opt), lambda meta: None)[0] == 3
    params, opt = put(trees(12))
    writer.save(12, params, opt, {"step": 12, "ledger": {"step": 12.1}})
    writer.finish()
    assert_restored(restore(copied), 12)


@pytest.mark.parametrize("name", ["21", "0021"])
def test_a_folder_that_only_looks_like_a_checkpoint_is_set_aside(copied, name):
    """Orbax would take it for the newest one, and refuse to save over it."""
    (copied / name).mkdir()
    assert committed_steps(copied) == [3, 12]
    assert newest_meta(copied)["step"] == 12
    assert_restored(restore(copied), 12)
    assert not (copied / name).exists()
    writer = CheckpointWriter(copied)
    writer.save(21, *put(trees(21)), {"step": 21, "ledger": {"step": 21.1}})
    writer.finish()
    assert committed_steps(copied) == [3, 12, 21]


def test_an_unfinished_save_is_ignored_named_and_cleaned_by_the_writer_alone(copied, caplog):
    left = copied / "20.orbax-checkpoint-tmp"
    shutil.copytree(copied / "12", left)
    params, _ = trees(0)
    assert committed_steps(copied) == [3, 12]
    read_checkpoint(copied, 12, params=abstract(params))
    assert left.exists(), "a reader must not touch what a live writer may be writing"
    assert_restored(restore(copied), 12)
    assert f"{left}: an unfinished checkpoint of a killed run" in caplog.text
    end = time.monotonic() + 30  # Orbax cleans in the background, at the latest before a save
    while left.exists() and time.monotonic() < end:
        time.sleep(0.01)
    assert not left.exists()


def test_another_runs_checkpoint_is_refused_and_left_alone(copied):
    def check(meta):
        raise ValueError(f"of another run: {meta['note']}")

    before = files_of(copied)
    with pytest.raises(ValueError, match="of another run: é"):
        restore(copied, check)
    assert files_of(copied) == before


@pytest.mark.parametrize(
    ("leaf", "saved", "asked"),
    [
        ("embedding", "float32[64, 48]", (jnp.float32, (48, 64))),
        ("embedding", "float32[64, 48]", (jnp.bfloat16, (64, 48))),
        ("embedding", "float32[64, 48]", (jnp.float32, (65, 48))),
        ("more", "nothing", (jnp.float32, (2,))),
    ],
)
def test_another_type_or_shape_is_named_and_not_taken_for_damage(copied, leaf, saved, asked):
    params, opt = map(abstract, trees(0))
    dtype, shape = asked
    params[leaf] = jax.ShapeDtypeStruct(shape, dtype)
    wanted = f"{jnp.dtype(dtype)}{list(shape)}"
    with pytest.raises(CheckpointError) as error:
        read_checkpoint(copied, 12, params=params)
    assert str(error.value).endswith(f"holds params['{leaf}'] as {saved}, not as {wanted}")
    with pytest.raises(CheckpointError, match="holds params"):
        writer = CheckpointWriter(copied)
        writer.restore_newest(params, opt, lambda meta: None)
    assert committed_steps(copied) == [3, 12]


def test_a_leaf_that_is_not_asked_for_is_named(two):
    params, _ = map(abstract, trees(0))
    del params["block"]["odd"]
    with pytest.raises(CheckpointError, match=r"\['block'\]\['odd'\] as float32\[6\], not as noth"):
        read_checkpoint(two, 12, params=params)


def test_a_missing_checkpoint_is_one_line(two):
    with pytest.raises(CheckpointError, match=r"checkpoint 7 in .* has no meta") as error:
        read_checkpoint(two, 7, params=abstract(trees(0)[0]))
    assert "\n" not in str(error.value)


def test_a_disk_too_full_is_said_before_anything_is_written(tmp_path, monkeypatch):
    writer = CheckpointWriter(tmp_path)
    params, opt = put(trees(1))
    usage = shutil.disk_usage(tmp_path)._replace(free=1_000)
    monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(
        CheckpointError, match=r"a checkpoint of step 1 may need [\d.]+ MB and the disk has 0\.0 MB"
    ):
        writer.save(1, params, opt, {})
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    writer.save(1, params, opt, {"step": 1})
    writer.finish()
    assert committed_steps(tmp_path) == [1]


def test_room_is_looked_at_when_no_save_is_in_flight_and_old_ones_are_gone(tmp_path, monkeypatch):
    seen, usage = [], shutil.disk_usage

    def look(path):
        seen.append([*committed_steps(tmp_path), *tmp_path.glob("*tmp*")])
        return usage(path)

    monkeypatch.setattr(checkpoints.shutil, "disk_usage", look)
    writer = CheckpointWriter(tmp_path, Keep(last=1))
    for step in (1, 2, 3):
        writer.save(step, *put(trees(1)), meta_of(step))
    writer.finish()
    assert seen == [[], [1], [2]] and committed_steps(tmp_path) == [3]


@pytest.mark.parametrize("when", ["next save", "finish"])
def test_a_save_that_fails_in_the_background_is_told(tmp_path, monkeypatch, when):
    writer = CheckpointWriter(tmp_path)
    params, opt = put(trees(1))

    async def fail(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: no space\nand pages\nmore")

    monkeypatch.setattr(atomicity.AtomicRenameTemporaryPath, "finalize", fail)
    writer.save(1, params, opt, {"step": 1})
    with pytest.raises(CheckpointError) as error:
        if when == "finish":
            writer.finish()
        else:
            while writer._manager.is_saving_in_progress():
                pass
            writer.save(2, params, opt, {"step": 2})
    assert str(error.value) == f"{tmp_path}: a save failed: RESOURCE_EXHAUSTED: no space"
    assert committed_steps(tmp_path) == []


def test_a_step_that_is_there_is_not_saved_over(copied):
    writer = CheckpointWriter(copied)
    with pytest.raises(CheckpointError, match="a save failed"):
        writer.save(12, *put(trees(1)), {"step": 12})
    writer.finish()
    assert_restored(restore(copied), 12)


def test_orbax_is_told_to_be_quiet_and_ours_is_heard(copied, caplog):
    (copied / "12/meta/metadata").write_text("{")
    with caplog.at_level(logging.INFO):
        restore(copied)
    assert [record.levelname for record in caplog.records if record.name == "absl"] == []
    (ours,) = [r for r in caplog.records if r.name == "root"]
    assert ours.levelname == "WARNING" and "an older one is used" in ours.getMessage()
