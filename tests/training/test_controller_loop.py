"""A run with controllers, in this process: what is measured, decided, logged and trained on."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
from controlled import Rising
from model import reference
from training.conftest import (
    GEOMETRY,
    MODEL,
    TRAINING,
    batches,
    make_job,
    make_program,
    params_at,
    records,
    same_bits,
)

from ttoaa.experiments import controllers as control
from ttoaa.experiments.controllers import Measured
from ttoaa.planning.compiler import compile_plan
from ttoaa.planning.controller_log import read_log
from ttoaa.planning.injection import SlotOverlay
from ttoaa.planning.items import Intervention, Item
from ttoaa.planning.placement import PerInterval
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.controller_loop import ControllerLoop, ControllerSet
from ttoaa.training.device_feed import apply_transforms
from ttoaa.training.loop import train

EVERY = {"a": 4, "b": 3}
"""Of 12 steps; checkpoints are at 4, 8 and 12, so two of them where an interval of a begins."""
IDENTITY = {"corpus": "c0", "plan": "p0", "controllers": "k0"}


class Crash(Exception):
    pass


@pytest.fixture(scope="session")
def plan():
    items = [
        Item(name, name, 3 * (12 // every), slot=5, placement=PerInterval(every))
        for name, every in EVERY.items()
    ]
    done = {"known": Intervention(items, np.empty(0, np.int64))}
    return compile_plan(done, GEOMETRY, MODEL.vocab_size, {"seed": 3})


def controllers(**changes):
    texts = np.random.default_rng(5).integers(1, MODEL.vocab_size, (4, 5)).astype(np.int32)
    found = [Rising(n, every, tuple(texts), texts[:3], 2, 3) for n, every in EVERY.items()]
    return [("known", dataclasses.replace(each, **changes)) for each in found]


def _placed_at(rows):
    """Adds what the loader's batches have and those of the conftest do not."""
    return lambda step, batch: {**batch, "position": step * GEOMETRY.batch + rows}


class Watched:
    """A job whose loader tells what was asked for, and may crash at a step."""

    def __init__(self, folder, plan, crash=None, decides=True, named=None, **changes):
        self.given = []
        named = named or controllers()
        self.filled = SlotOverlay(plan, control.slot_texts(named)) if decides else None
        every = 4 if crash is None else 3  # how often one saves changes nothing

        def before(step):
            if step == crash:
                raise Crash
            lines = read_log(folder / "decisions.jsonl")
            decided = [line["step"] for line in lines if line["slots"] == "a"]
            self.given.append((step, decided[-1] if decided else None))

        def loaded(start, rows):
            late = [self.filled, self._note] if decides else [self._note]
            return apply_transforms(batches(start, rows, before), [_placed_at(rows), *late])

        self.seen = {}
        self.job = make_job(
            folder,
            identity=IDENTITY,
            batches=loaded,
            controls=ControllerSet(named, "r" * 64, "m" * 64, self.filled),
            program=make_program(training=dataclasses.replace(TRAINING, checkpoint_every=every)),
            **changes,
        )

    def _note(self, step, batch):
        self.seen[step] = batch["tokens"].tobytes() + batch["arms"].tobytes()
        return batch


@pytest.fixture(scope="session")
def steered(plan, tmp_path_factory):
    """(folder, Watched) of a run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("steered") / "run"
    watched = Watched(folder, plan)
    train(watched.job)
    return folder, watched


def bytes_of(folder):
    return (folder / "decisions.jsonl").read_bytes()


def test_every_interval_is_decided_once_and_measured_before_its_first_batch(steered):
    folder, _ = steered
    lines = read_log(folder / "decisions.jsonl")
    when = [(line["slots"], line["interval"], line["step"]) for line in lines]
    wanted = [
        (name, step // every, step)
        for step in range(12)
        for name, every in EVERY.items()
        if step % every == 0
    ]
    assert when == wanted
    assert {line["experiment"] for line in lines} == {"known"}
    # By hand, at the steps that have a checkpoint.
    measured = controllers()[0][1].measured
    for step in (4, 8):
        (line,) = (x for x in lines if x["slots"] == "a" and x["step"] == step)
        log_probs = reference.log_probs(MODEL, params_at(folder, step), measured.tokens_NxL)
        expected = log_probs[:, measured.start[0] - 1 :].sum(axis=1)
        np.testing.assert_allclose(line["log_p"], expected, rtol=1e-5)


def test_each_decides_from_what_it_left(steered):
    folder, _ = steered
    for name, controller in controllers():
        state = controller.start()
        for line in read_log(folder / "decisions.jsonl"):
            if line["slots"] == controller.slots:
                asked = controller.decide(state, line["interval"], np.array(line["log_p"]))
                assert (line["chosen"], line["state"]) == asked
                state = line["state"]
        assert state["next"] > 0 and name == "known"


def test_the_loop_trains_on_what_was_decided(steered, plan):
    folder, watched = steered
    again = SlotOverlay(plan, control.slot_texts(controllers()))
    again.replay(read_log(folder / "decisions.jsonl"))
    rows, filled = np.arange(GEOMETRY.batch), 0
    for batch in batches(0, rows):
        step, plain = batch["step"], batch["tokens"].tobytes()
        batch["position"] = step * GEOMETRY.batch + rows
        again(step, batch)
        filled += batch["tokens"].tobytes() != plain
        assert watched.seen[step] == batch["tokens"].tobytes() + batch["arms"].tobytes()
    assert filled > 3 and set(watched.seen) == set(range(12))


def test_no_batch_is_asked_for_before_it_is_decided(steered):
    """And within an interval one batch still lies ready."""
    _, watched = steered
    assert watched.given == [(step, step // 4 * 4) for step in range(12)]


@pytest.mark.parametrize("at", [5, 8, 10])
def test_a_crash_costs_nothing_but_time(steered, plan, tmp_path, at):
    """Saves are at 3, 6 and 9 here: a crash comes within an interval, or as it begins."""
    whole, watched = steered
    crashed = Watched(tmp_path, plan, crash=at)
    with pytest.raises(Crash):
        train(crashed.job)
    cut = read_log(tmp_path / "decisions.jsonl")
    assert cut == read_log(whole / "decisions.jsonl")[: len(cut)]
    newest = max([0, *(s for s in committed_steps(tmp_path / "checkpoints"))])
    resumed = Watched(tmp_path, plan)
    train(resumed.job)
    assert bytes_of(tmp_path) == bytes_of(whole)
    assert records(tmp_path) == records(whole)
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12))
    for seen in (crashed.seen, resumed.seen):
        assert all(watched.seen[step] == batch for step, batch in seen.items())
    assert min(resumed.seen) == newest


@pytest.mark.parametrize("step", [4, 8])
def test_a_checkpoint_has_what_was_decided_at_its_step(steered, plan, tmp_path, step):
    """Gone on with from there, nothing is decided again and the batch is filled from the log."""
    whole, watched = steered
    folder = shutil.copytree(whole, tmp_path / "run")
    for later in {4, 8, 12} - {*range(step + 1)}:
        shutil.rmtree(folder / f"checkpoints/{later}")
    (folder / "finished.json").unlink()
    meta = json.loads((folder / f"checkpoints/{step}/meta/metadata").read_text())
    lines = [x for x in read_log(folder / "decisions.jsonl") if x["step"] <= step]
    assert meta["decisions"] == lines[-1]["hash"] and lines[-1]["step"] == step
    resumed = Watched(folder, plan)
    train(resumed.job)
    assert resumed.given[0] == (step, step) and min(resumed.seen) == step
    assert all(watched.seen[s] == batch for s, batch in resumed.seen.items())
    assert bytes_of(folder) == bytes_of(whole) and records(folder) == records(whole)


def test_the_control_run_measures_the_same_and_changes_no_bit(steered, whole, plan, tmp_path):
    """The run `whole` has no controllers."""
    folder, _ = steered
    train(Watched(tmp_path, plan, decides=False).job)
    found, of_run = (read_log(path / "decisions.jsonl") for path in (tmp_path, folder))
    assert [x["step"] for x in found] == [x["step"] for x in of_run]
    assert all(x["chosen"] is None and x["state"] is None for x in found)
    assert found[0]["log_p"] == of_run[0]["log_p"], "before the first text the runs are one"
    assert found[-1]["log_p"] != of_run[-1]["log_p"]
    assert not (tmp_path / "controllers").exists()
    assert same_bits(params_at(tmp_path, 12), params_at(whole, 12))
    assert records(tmp_path) == records(whole)
    assert not (whole / "decisions.jsonl").exists() and not (whole / "controllers").exists()
    meta = json.loads((whole / "checkpoints/12/meta/metadata").read_text())
    assert "decisions" not in meta


def test_the_time_of_probing_is_a_phase_of_its_own(steered):
    seconds = json.loads((steered[0] / "ledger.json").read_text())["seconds"]
    assert seconds["probe/known"] > 0


def test_a_torn_or_longer_log_is_cut_and_a_damaged_one_refused(steered, plan, tmp_path):
    whole, _ = steered
    folder = shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(folder / "checkpoints/12")
    (folder / "finished.json").unlink()
    path, log = folder / "decisions.jsonl", bytes_of(whole)
    first = log.splitlines(True)[0]
    path.write_bytes(first.replace(b'"log_p": [', b'"log_p": [0.5, ') + log[len(first) :])
    before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    with pytest.raises(ValueError, match=r"decisions.jsonl is damaged: line 1 ") as error:
        train(Watched(folder, plan).job)
    assert "\n" not in str(error.value)
    assert before == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
    path.write_bytes(log[:-9])
    train(Watched(folder, plan).job)
    assert bytes_of(folder) == log and records(folder) == records(whole)


@dataclasses.dataclass(frozen=True)
class Bad(Rising):
    """Decides whatever it is told to."""

    chosen: tuple = ()
    state: object = None

    def decide(self, state, interval, log_p):
        return list(self.chosen), {"x": self.state}


def decide(folder, plan, log_p=-1.0, **changes):
    """The first decision of both controllers, on a model that is made up."""
    named = [(n, Bad(**{**vars(c), **changes})) for n, c in controllers()]
    filled = SlotOverlay(plan, control.slot_texts(named))
    controlling = ControllerLoop(ControllerSet(named, "r" * 64, "m" * 64, filled), folder, 0, None)
    ((name, numbers),) = controlling.due(0)
    assert name == "known" and numbers == [0, 1]
    controlling.decide(0, numbers, lambda asked: [np.full(len(t) - s, log_p) for t, s in asked])
    return read_log(folder / "decisions.jsonl")


def test_log_p_is_summed_over_the_target(plan, tmp_path):
    assert [line["log_p"] for line in decide(tmp_path, plan, -0.5)] == [[-1.0] * 3] * 2


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"chosen": (0,) * 4}, "the decision for interval 0 has 4 texts for 3 slots"),
        ({"chosen": (4,)}, "the decision for interval 0 chooses text 4, but there are only 4"),
        ({"state": {1, 2}}, "a controller's state must be JSON"),
        ({"state": float("nan")}, "a controller's state must be JSON"),
        ({"log_p": np.nan}, "at step 0 a probe's log p is not finite"),
    ],
)
def test_a_bad_decision_is_one_line_and_is_not_logged(plan, tmp_path, changes, told):
    with pytest.raises(ValueError, match=f"known/a: {told}") as error:
        decide(tmp_path, plan, **changes)
    assert "\n" not in str(error.value)
    assert read_log(tmp_path / "decisions.jsonl") == []


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        (
            {"start": np.array([0, 3])},
            "target of probe 0, tokens 0 to 5 of 5, must hold a token and have one before",
        ),
        ({"stop": np.array([5, 3])}, "probe 1, tokens 3 to 3"),
        ({"stop": np.array([6, 5])}, "probe 0, tokens 3 to 6"),
        ({"stop": np.array([5])}, r"not the shapes \(2, 5\), \(2,\) and \(1,\)"),
        ({"tokens_NxL": np.full((2, 5), 31)}, "probe 0 has a token outside the vocabulary of 31"),
    ],
)
def test_what_cannot_be_measured_is_refused(measured, told):
    tokens = np.ones((2, 5), np.int32)
    good = Measured(tokens, np.array([3, 3]), np.array([5, 5]))
    made = MadeOf("a", 4, (), dataclasses.replace(good, **measured))
    with pytest.raises(ValueError, match=f"known/a: .*{told}"):
        control.check_controllers([("known", made)], 31)
    control.check_controllers([("known", dataclasses.replace(made, measured=good))], 31)


@dataclasses.dataclass(frozen=True)
class MadeOf:
    slots: str
    every: int
    texts: tuple
    measured: Measured
    gain: object = 1.0


def test_texts_and_slots_are_checked_too():
    measured = Measured(np.ones((1, 5), np.int32), np.array([3]), np.array([5]))
    made = MadeOf("a", 4, (np.array([1, 30]), np.array([2, 31])), measured)
    with pytest.raises(ValueError, match="known/a: text 1 has a token outside"):
        control.check_controllers([("known", made)], 31)
    good = dataclasses.replace(made, texts=made.texts[:1])
    with pytest.raises(ValueError, match="known/a: two controllers cannot have the same slots"):
        control.check_controllers([("known", good), ("known", good)], 31)
    control.check_controllers([("known", good), ("other", good)], 31)


def test_fingerprints_tell_what_a_run_depends_on():
    measured = Measured(np.ones((1, 5), np.int32), np.array([3]), np.array([5]))
    made = MadeOf("a", 4, (np.array([1, 30]), np.array([2])), measured)
    moved = Measured(measured.tokens_NxL, np.array([2]), measured.stop)
    others = {
        "gain": dataclasses.replace(made, gain=1.5),
        "texts": dataclasses.replace(made, texts=(np.array([1]), np.array([30, 2]))),
        "every": dataclasses.replace(made, every=8),
        "measured": dataclasses.replace(made, measured=moved),
    }
    prints = {
        n: control.controllers_fingerprint([("e", c)]) for n, c in {"": made, **others}.items()
    }
    assert len(set(prints.values())) == 5
    assert control.controllers_fingerprint([("f", made)]) not in prints.values()
    shared = {n: control.measured_fingerprint([("e", c)]) for n, c in others.items()}
    ours = control.measured_fingerprint([("e", made)])
    assert {n: each == ours for n, each in shared.items()} == {
        "gain": True, "texts": True, "every": False, "measured": False,
    }  # fmt: skip
    assert control.controllers_fingerprint([("e", dataclasses.replace(made))]) == prints[""]
    with pytest.raises(
        ValueError, match=r"e/a\.3\.gain must be made of .* plain values, not <object"
    ):
        control.controllers_fingerprint([("e", dataclasses.replace(made, gain=object()))])
