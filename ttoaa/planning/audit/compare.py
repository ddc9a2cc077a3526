"""The audit of a plan: compare the loader's batches with those of the reference reader (C5)."""

import dataclasses
import itertools
import pathlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.data.loader import Transform, batches
from ttoaa.data.order import Order
from ttoaa.parquet_io import read_table
from ttoaa.planning import controller_log
from ttoaa.planning.audit.reference_reader import PlainReader, Share, differences
from ttoaa.planning.injection import SHAM_WINDOWS, Overlay, SlotOverlay
from ttoaa.planning.noise import NOISE_KEY, NOISE_SCALE, NoiseRows
from ttoaa.planning.plan import Plan
from ttoaa.runs import RUN, RunSpec, parse_run
from ttoaa.workdir import Workdir


def cuts(batch: int, hosts: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Yield (name, rows of every host): contiguous rows for each host, and every n-th row.

    The sharding of a batch may cut it either way (see `training.device_feed.local_rows`).
    """
    if not 1 <= hosts <= batch:
        raise ValueError(f"a batch of {batch} rows can be cut for 1 to {batch} hosts, not {hosts}")
    rows = np.arange(batch)
    yield "", list(np.array_split(rows, hosts))
    if hosts > 1:
        yield ", strided", [rows[host::hosts] for host in range(hosts)]


def load_shares(
    corpus: Corpus,
    plan: Plan,
    steps: Sequence[int],
    hosts: Sequence[int] = (1,),
    filled: SlotOverlay | None = None,
    overlay: Overlay | None = None,
    order: Order | None = None,
    noise: NoiseRows | None = None,
) -> Iterator[Share]:
    """Load the rows of each host for these steps, for each number of `hosts`, step by step.

    With `filled`, controllers' slots hold the texts that a run decided. `overlay` makes the edits,
    `noise` names the rows with noise, and `order` is the training order; all default to the plan's.
    """
    geometry, order = plan.geometry, order or Order(**plan.contents["order"])
    shares = [
        (f"host {host} of {count}{how}" if count > 1 else "", rows)
        for count in hosts
        for how, parts in cuts(geometry.batch, count)
        for host, rows in enumerate(parts)
    ]
    edits: list[Transform] = [
        overlay or Overlay(plan, corpus),
        NoiseRows(plan) if noise is None else noise,
    ]
    following = -1
    for step in steps:
        if step != following:  # to begin costs far more than a step
            loaded = [
                batches(corpus, order, geometry, edits, rows=rows, start=step, threads=0)
                for _, rows in shares
            ]
        following = step + 1
        for (host, rows), rest in zip(shares, loaded, strict=True):
            batch = filled(step, next(rest)) if filled else next(rest)
            perturbed = None
            if NOISE_KEY in batch:
                perturbed = np.concatenate([batch[NOISE_KEY], batch[NOISE_SCALE]], 1, dtype=float)
            yield Share(step, rows, batch["tokens"], batch["arms"], perturbed, host)


_VERIFIED = 1 << 33  # bytes: the shards of a larger corpus are not hashed, to save time
_COUNTED = 1_000  # differences


def audit(
    workdir: Workdir,
    count: int,
    seed: int,
    steps: Sequence[int] = (),
    hosts: Sequence[int] = (1,),
    name: str = RUN,
) -> str:
    """Compare the loader with the reference reader on `steps`, or on `count` random steps.

    The batches are those of the run `name` (see `ttoaa.runs`); each is loaded for each number of
    `hosts`. If that run has controllers and has begun, both sides fill the slots that it decided.
    Returns a line for the user. Raises ValueError for a difference, naming the first one, and for a
    damaged plan or corpus.
    """
    plan = Plan.open(workdir.plan)
    _check_choices(workdir, plan)
    corpus, note = _open_corpus(workdir, plan)
    geometry, run = plan.geometry, workdir.run(name)
    spec = parse_run(name, plan.contents["experiments"])
    sham = _sham_windows(run) if spec.sham else None
    controlled = (run / controller_log.SLOT_TEXTS_FOLDER / "index.json").exists()
    reader = PlainReader(
        workdir.corpus, workdir.plan, run if controlled else None, spec.experiments, sham
    )
    order = Order(**plan.contents["order"])
    order = dataclasses.replace(order, seed=spec.order_seed(order.seed))
    reader.order = {**reader.order, "seed": order.seed}
    filled = slot_overlay(plan, run) if controlled else None
    stop = min(reader.decided, geometry.steps)
    if not stop:
        raise ValueError(f"{run} has made no decision yet: audit it after the first interval")
    if not steps and count < 1:
        raise ValueError(f"--audit compares at least 1 batch, not {count}")
    first = spec.start or 0
    if wrong := [step for step in steps if not first <= step < stop]:
        what = "has decided steps" if stop < geometry.steps else "has steps"
        raise ValueError(f"the run {what} {first} to {stop - 1}: step {wrong[0]} cannot be audited")
    chosen = list(steps)
    if not steps:
        drawn = first + np.random.default_rng(seed).permutation(stop - first)[:count]
        chosen = sorted(drawn.tolist())
    overlay = Overlay(plan, corpus, spec.experiments, sham)
    noise = NoiseRows(plan, () if spec.sham else spec.experiments)
    shares = load_shares(corpus, plan, chosen, hosts, filled, overlay, order, noise)
    found = list(itertools.islice(differences(reader, shares), _COUNTED))
    if found:
        count_text = f"{_COUNTED:,} or more" if len(found) == _COUNTED else f"{len(found):,}"
        raise ValueError(f"the audit found {count_text} differences; first: {found[0]}")
    same = compare_with_run(workdir, plan, spec, load_shares(corpus, plan, chosen, overlay=overlay))
    where = "" if tuple(hosts) == (1,) else f" as each of {', '.join(map(str, hosts))} hosts"
    tokens = len(chosen) * geometry.batch * geometry.length
    of = "" if name == RUN else f" of {workdir.label(name)}"
    rows = np.isin(noise.positions // geometry.batch, chosen).sum()
    same += f", {rows} rows with noise" if noise else ""
    return (
        f"{len(chosen)} batches ({tokens:,} tokens and arms){of} audited{where}, "
        f"{'with the decisions of the run, ' if controlled else ''}no difference{same}{note}"
    )


def _check_choices(workdir: Workdir, plan: Plan) -> None:
    """Raise ValueError for a choice that is not the one the plan was made from."""
    for name, sha256 in plan.contents.get("choices", {}).items():
        path = workdir.choices(name)
        found = read_table(path, "restore it from a copy")[2] if path.exists() else "missing"
        if found != sha256:
            raise ValueError(
                f"{path} is {found}, the plan was made with {sha256}: restore it from a copy"
            )


def compare_with_run(workdir: Workdir, plan: Plan, spec: RunSpec, shares: Iterable[Share]) -> str:
    """Compare a run's edits with those of `run`, by independent code; return what to print.

    Every edit that both make has the same place, arm and bytes, or in a sham run the same place and
    arm, and no other token differs from the control run. Controllers' slots count as not filled.
    Raises ValueError naming the first difference. `shares` are the whole batches of the run.
    """
    if not spec.experiments or spec.name == RUN:
        return ""
    reader = PlainReader(workdir.corpus, workdir.plan)
    control = PlainReader(workdir.corpus, workdir.plan, experiments=())
    own = [arm["id"] for arm in plan.arms if arm["experiment"] in spec.experiments]
    edited = 0
    for share in shares:
        (tokens, arms), (bare, _) = reader.step(share.step), control.step(share.step)
        kept = np.isin(arms, own)
        edited += int(kept.sum())
        expected = np.where(kept, share.tokens if spec.sham else tokens, bare)
        wrong = (share.arms != np.where(kept, arms, 0)) | (share.tokens != expected)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"step {share.step} row {row} token {column}: {workdir.label(spec.name)} and "
                f"{workdir.label(RUN)} differ in more than the experiments that they include"
            )
    same = "places" if spec.sham else "places and bytes"
    return f"; its {edited:,} edited tokens have the {same} of {workdir.label(RUN)}"


def _sham_windows(run: pathlib.Path) -> np.ndarray:
    """Return the windows that a sham run takes its text from; ValueError before it began."""
    path = run / SHAM_WINDOWS
    if not path.exists():
        raise ValueError(f"{run} has not begun: train it first")
    return np.load(path)


def slot_overlay(plan: Plan, run: pathlib.Path) -> SlotOverlay:
    """Return the transform that fills slots, after all decisions of a run."""
    filled = SlotOverlay(
        plan, controller_log.load_slot_texts(run / controller_log.SLOT_TEXTS_FOLDER)
    )
    filled.begin(0)
    filled.replay(controller_log.read_log(run / controller_log.LOG_NAME))
    return filled


def _open_corpus(workdir: Workdir, plan: Plan) -> tuple[Corpus, str]:
    """Open the plan's corpus; also return a note if it is too large to be hashed."""
    corpus = Corpus.open(workdir.corpus, verify=False)
    if corpus.fingerprint != plan.contents["corpus"]:
        raise ValueError(f"{plan.folder} was made for another corpus than {corpus.folder}")
    width = np.dtype(corpus.manifest.dtype).itemsize
    if sum(shard.tokens for shard in corpus.manifest.shards) * width > _VERIFIED:
        return corpus, " (the corpus is large: its shards were not hashed)"
    return Corpus.open(workdir.corpus), ""
