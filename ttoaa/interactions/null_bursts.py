"""Null bursts: further bursts without experiments, each on another stretch of the stream.

They are scored on the items of one seed, as its null row is, and show how much outcomes vary before
any matrix is run (see `interactions.power`). Their folders are `nulls/K` next to those of the rows.
"""

import dataclasses
import pathlib
from collections.abc import Iterator, Sequence

import pandas as pd

from ttoaa.data.order import Order
from ttoaa.interactions.burst_study import BurstHandle, BurstStudy
from ttoaa.interactions.effects import COLUMNS, row_effects
from ttoaa.interactions.power import paired_noise, preview, to_markdown
from ttoaa.parquet_io import write_table
from ttoaa.runs import CONTROL, REFERENCE, RunSpec
from ttoaa.workdir import Workdir, write_json

_FIRST = 32
"""Stretch of the first null burst: seeds of a matrix, which come before it, do not move it."""


@dataclasses.dataclass(frozen=True)
class NullWorkdir(Workdir):
    """The folder of a seed, with the run and the tables of one null burst."""

    burst: int = 0

    @property
    def _folder(self) -> pathlib.Path:
        return self._seeded("nulls") / str(self.burst)

    @property
    def tables(self) -> pathlib.Path:
        return self._folder / "tables"

    def run(self, name: str) -> pathlib.Path:
        return super().run(name) if name == REFERENCE else self._folder / name


@dataclasses.dataclass(frozen=True, kw_only=True)
class NullHandle(BurstHandle):
    """One null burst of a seed: its items and their places are those of the seed."""

    trained: Order

    def order_of(self, spec: RunSpec) -> Order:
        return self.trained


def null_bursts(bursts: BurstStudy, seed: int, number: int) -> Iterator[NullHandle]:
    """Yield null bursts; each has a stretch of the stream that no other one and no seed has."""
    handle = bursts.handle(seed)
    for burst in range(number):
        yield NullHandle(
            handle.config,
            NullWorkdir(bursts.root, seed, burst),
            verify=False,
            stream=handle.stream,
            shared=handle.shared,
            trained=bursts.handle(_FIRST + burst).stream,
        )


def read_nulls(bursts: BurstStudy, seed: int, number: int) -> pd.DataFrame:
    """Return the differences of null bursts from the seed's null row, as `effects.read_effects`."""
    own = bursts.handle(seed).workdir
    found = [
        {"checkpoint": bursts.source.step, "seed": seed, "row": f"null/{burst}", **effect}
        for burst, handle in enumerate(null_bursts(bursts, seed, number))
        for effect in row_effects(handle, CONTROL, own)
    ]
    return pd.DataFrame(found, columns=list(COLUMNS))


def preview_power(
    bursts: BurstStudy, seeds: Sequence[int], number: int, effects: pd.DataFrame, seconds: float
) -> str:
    """Write null effects and the power that they predict next to the bursts; return the table.

    `effects` are those of rows that exist, for the experiments' own effects and the noise of pairs;
    `seconds` is the cost of a row. Errors as in `power.preview`.
    """
    nulls = read_nulls(bursts, seeds[0], number)
    write_table(nulls, bursts.root.with_name(f"{bursts.root.name}-nulls.parquet"), {"seeds": seeds})
    alone = effects[effects["row"] == "alone/" + effects["experiment"]]
    own = alone.dropna(subset="estimate").groupby("experiment")["estimate"].mean().to_dict()
    found = preview(nulls, len(seeds), seconds, own, paired=paired_noise(effects))
    path = bursts.root.with_name(f"{bursts.root.name}-power.json")
    write_json(path, dataclasses.asdict(found))
    return f"{to_markdown(found)}\n\nThe numbers are in {path}"
