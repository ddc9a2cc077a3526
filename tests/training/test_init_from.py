import dataclasses
import shutil

import jax
import numpy as np
import optax
import pytest
from training.saved import abstract, bits, put

from ttoaa.data.geometry import Geometry
from ttoaa.identity import SCHEMA, describe, identity
from ttoaa.model.decoder import DecoderConfig
from ttoaa.training import init_from
from ttoaa.training.checkpoints import CheckpointWriter
from ttoaa.training.init_from import InitFrom, describe_start
from ttoaa.training.lr_schedules import ConstantLinear
from ttoaa.training.optimizer import AdamW, bind_schedule

MODEL = DecoderConfig(vocab_size=6, layers=1, width=4, heads=2, hidden=8)
GEOMETRY = Geometry(length=10, batch=4, steps=20)
OPTIMIZER = AdamW(ConstantLinear(0.5, warmup=4, decay=0.5), weight_decay=0.0)
IDENTITY = {
    "schema": SCHEMA,
    "corpus": "c0",
    "order": "o0",
    "plan": "p0",
    "geometry": describe(GEOMETRY),
    "model": describe(MODEL),
}


def made(steps):
    """(params, opt) as after so many updates."""
    rng = np.random.default_rng(steps)
    params = {"embedding": rng.standard_normal((6, 4)).astype(np.float32)}
    opt = jax.tree.map(
        lambda leaf: (
            np.full((), steps, leaf.dtype) if leaf.ndim == 0 else rng.random(leaf.shape, "f")
        ),
        jax.eval_shape(bind_schedule(OPTIMIZER, GEOMETRY.steps).init, params),
    )
    return put((params, opt))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A run's folder: steps 5 and 8 with moments, step 9 of parameters alone."""
    folder = tmp_path_factory.mktemp("source") / "run"
    writer = CheckpointWriter(folder / "checkpoints")
    for step in (5, 8):
        guard = put({"loss": np.zeros(3, np.float32)})
        writer.save(step, *made(step), {"step": step, "identity": IDENTITY}, guard=guard)
    writer.save(9, made(9)[0], None, {"step": 9, "identity": identity(model=MODEL)})
    writer.finish()
    return folder


def begin(init, **changes):
    ours = {**IDENTITY, "init_from": init_from.find_source(init), **changes}
    params, opt = made(0)
    return init_from.load_source(init, abstract(params), abstract(opt), ours)


def test_parameters_alone_begin_a_new_run(source):
    start = begin(InitFrom(str(source), 8))
    assert bits(start.params) == bits(made(8)[0])
    assert start.opt is None and start.step == 0


def test_a_folder_of_checkpoints_serves_and_the_newest_is_taken(source):
    start = begin(InitFrom(str(source / "checkpoints")))
    assert bits(start.params) == bits(made(9)[0])
    assert start.record["step"] == 9


def test_moments_go_on_and_the_rate_is_that_of_the_new_run(source):
    """The first update by hand: Adam's count is 9 then, the schedule's step 0."""
    start = begin(InitFrom(str(source), 8, optimizer=True))
    old = made(8)[1]
    assert start.step == 0 and bits(start.opt) == bits(old)
    old = optax.tree_utils.tree_get(old, "ScaleByAdamState")
    assert old.count == 8
    grad = np.full((6, 4), 0.1, np.float32)  # of norm 0.49: not clipped
    update = jax.jit(bind_schedule(OPTIMIZER, 30).update)
    updates, _ = update({"embedding": grad}, start.opt, start.params, step=0)
    mu = 0.9 * np.asarray(old.mu["embedding"], np.float64) + 0.1 * grad
    nu = 0.95 * np.asarray(old.nu["embedding"], np.float64) + 0.05 * grad**2
    rate = 0.5 / 4
    step = -rate * (mu / (1 - 0.9**9)) / (np.sqrt(nu / (1 - 0.95**9)) + 1e-8)
    np.testing.assert_allclose(updates["embedding"], step, rtol=1e-5)


def test_a_longer_run_goes_on_where_the_old_one_was(source):
    longer = dataclasses.replace(GEOMETRY, steps=40)
    init = InitFrom(str(source), 8, optimizer=True, continue_step=True)
    start = begin(init, geometry=describe(longer), plan="p1")
    assert start.step == 8
    assert bits(start.opt) == bits(made(8)[1])
    assert set(start.record["differs"]) == {"geometry", "plan"}
    assert start.record["differs"]["plan"] == {"there": "p0", "here": "p1"}
    line = describe_start(start.record)
    assert line.startswith("parameters and moments of step 8 in")
    assert line.endswith("; continues at that step; differs from it in plan, geometry")
    assert "\n" not in line


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("corpus", "c1", "was made with corpus c0, this run has c1"),
        ("order", "o1", "was made with order o0, this run has o1"),
        (
            "geometry",
            describe(Geometry(length=10, batch=8, steps=40)),
            "made with batch 4, this run has 8",
        ),
        (
            "geometry",
            describe(Geometry(length=9, batch=4, steps=40)),
            "made with length 10, this run has",
        ),
        (
            "geometry",
            describe(Geometry(length=10, batch=4, steps=8)),
            "at or after the end of this run of 8 steps: raise",
        ),
    ],
)
def test_what_a_step_cannot_go_on_with_is_refused(source, name, value, text):
    with pytest.raises(ValueError, match=text):
        begin(InitFrom(str(source), 8, True, True), **{name: value})
    begin(InitFrom(str(source), 8, True), **{name: value})


def test_an_import_that_tells_no_corpus_may_go_on(source, tmp_path):
    writer = CheckpointWriter(tmp_path)
    writer.save(3, *made(3), {"step": 3})
    writer.finish()
    assert begin(InitFrom(str(tmp_path), 3, True, True)).step == 3


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"heads": 1}, "of a model with heads 2, this one has 1"),
        ({"kv_heads": 1}, "of a model with kv_heads 2, this one has 1"),
        ({"rope_theta": 1e4}, "of a model with rope_theta 500000.0, this one has 10000.0"),
        ({"kv_heads": 2}, None),
        ({"init_std": 1.0, "dtype": "bfloat16"}, None),
    ],
)
def test_a_model_that_would_read_the_same_weights_otherwise_is_refused(source, change, text):
    model = describe(dataclasses.replace(MODEL, **change))
    if text is None:
        begin(InitFrom(str(source), 8), model=model)
        return
    with pytest.raises(ValueError, match=text):
        begin(InitFrom(str(source), 8), model=model)


def test_other_shapes_and_missing_moments_are_one_line(source):
    init = InitFrom(str(source), 8)
    ours = {**IDENTITY, "init_from": init_from.find_source(init)}
    params = {"embedding": jax.ShapeDtypeStruct((7, 4), np.float32)}
    with pytest.raises(ValueError, match=r"\['embedding'\] as float32\[6, 4\], not as float32\[7"):
        init_from.load_source(init, params, None, ours)
    with pytest.raises(ValueError, match=r"checkpoint 9 in .* holds no opt$"):
        begin(InitFrom(str(source), 9, optimizer=True))


def test_continuing_needs_the_moments():
    with pytest.raises(ValueError, match="continue_step needs Adam's moments: set InitFrom"):
        InitFrom("x", continue_step=True)


@pytest.mark.parametrize(
    ("step", "text"), [(7, "no checkpoint 7, only"), (None, "no checkpoint: ")]
)
def test_a_source_that_is_not_there_is_one_line(source, tmp_path, step, text):
    folder = source if step else tmp_path / "none"
    with pytest.raises(ValueError, match=f"InitFrom.folder: .* has {text}"):
        init_from.find_source(InitFrom(str(folder), step))


def test_a_source_without_a_good_checkpoint_says_so(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    for meta in copy.glob("checkpoints/*/meta/metadata"):
        meta.write_text("{}")
    with pytest.raises(
        ValueError, match=r"no good checkpoint: those of steps \[5, 8, 9\] are damaged"
    ):
        init_from.find_source(InitFrom(str(copy)))


def test_the_identity_names_the_source_and_is_kept_once_the_run_has_begun(source, tmp_path):
    copy = shutil.copytree(source, tmp_path / "copy")
    init = InitFrom(str(copy))
    first = init_from.find_source(init)
    assert first["step"] == 9 and len(first["sha256"]) == 64
    shutil.rmtree(copy / "checkpoints/9")
    second = init_from.find_source(init)
    assert second["step"] == 8 and second["sha256"] != first["sha256"]
    assert init_from.find_source(init, first) == first
    assert init_from.find_source(InitFrom(str(copy), 8), first) != first
    shutil.rmtree(copy)
    assert init_from.find_source(init, first) == first
    assert init_from.find_source(None) is None and init_from.find_source(None, first) is None


def test_a_source_that_changed_since_is_refused(source):
    init = InitFrom(str(source), 8)
    other = {**init_from.find_source(init), "sha256": "0" * 64}
    with pytest.raises(
        ValueError, match=r"checkpoint 8 in .* is not the one that this run started from"
    ):
        begin(init, init_from=other)


def test_a_source_of_another_version_is_refused(source, tmp_path):
    old = {"model": "DecoderConfig(layers=1)", "init_from": "InitFrom(folder='x') at step 3"}
    writer = CheckpointWriter(tmp_path)
    writer.save(3, *made(3), {"step": 3, "identity": old})
    writer.finish()
    with pytest.raises(ValueError, match=r"checkpoint 3 in .* was made by another version"):
        begin(InitFrom(str(tmp_path)))
    assert init_from.find_source(InitFrom(str(source)), old["init_from"])["step"] == 9
