"""Fictional texts from files, as Chang et al. (2024) and the paper have them: JSON and JSONL."""

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

import gin
import numpy as np

from ttoaa.benchmarks.records import check_paths, records
from ttoaa.experiments.acquisition.topics import Cloze, Entity, Topic

PAPER = (0, 6, 10, 22)
"""The four texts that the paper uses, by their places in the list of 130."""


@gin.configurable
@dataclasses.dataclass(frozen=True)
class FictionalTexts:
    """One entity of one topic for each entry of a JSON list: its text and, if it has any, its
    paraphrases.

    Probes are the entry's own (its `<probes>_input` and `<probes>_target`), or those of `queries`,
    JSON lines of input and target: as many for each entry, in the order of `entries`. White space
    around an input or a target is taken off: two of the paper's queries end in a blank, which its
    code follows by another one before the target; here there is one, as in text.
    """

    path: str
    """With the key `paraphrases`, or without."""
    queries: str | None = None
    entries: Sequence[int] = PAPER
    probes: str = "gen"
    """'mem' (words of the text), 'gen' (other words for these) or 'hard_gen' (put differently)."""

    def __post_init__(self) -> None:
        check_paths([self.path, *([self.queries] if self.queries else [])], "FictionalTexts")
        if not self.entries or len(set(self.entries)) < len(self.entries):
            raise ValueError("FictionalTexts.entries must be different, and at least one")
        if self.probes not in ("mem", "gen", "hard_gen"):
            raise ValueError("FictionalTexts.probes must be 'mem', 'gen' or 'hard_gen'")

    def entities(self, count: int, rng: np.random.Generator) -> list[Entity]:
        if count > len(self.entries):
            raise ValueError(
                f"FictionalTexts has {len(self.entries)} entries, {count} are asked for: name more "
                "in FictionalTexts.entries, or take fewer entities"
            )
        found = [self._entity(number, *both) for number, both in enumerate(self._read())]
        return [found[k] for k in rng.permutation(len(found))[:count]]

    def _entity(self, number: int, record: dict[str, Any], asked: Sequence[Any]) -> Entity:
        where = f"{self.path}, entry {self.entries[number]}"
        try:
            texts = [str(record["train_context"]), *map(str, record.get("paraphrases", ()))]
            pairs = [(str(a).strip(), str(b).strip()) for a, b in asked]
        except (KeyError, TypeError) as error:
            raise ValueError(f"{where} lacks {error}") from error
        for context, target in pairs:
            if not context or not target:
                raise ValueError(f"{where} has a probe without input or target")
            if self.queries and target.casefold() not in texts[0].casefold():
                raise ValueError(
                    f"{self.queries}: {target!r} is not in {where}: are the queries in the order "
                    "of FictionalTexts.entries?"
                )
        probes = [Cloze(f"q{k}", context, target) for k, (context, target) in enumerate(pairs)]
        name = f"entry-{self.entries[number]}"
        return Entity(name, (Topic(tuple(dict.fromkeys(texts)), tuple(probes)),))

    def _read(self) -> list[tuple[dict[str, Any], list[Any]]]:
        """The chosen records with their (input, target) pairs."""
        try:
            every = json.loads(pathlib.Path(self.path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.path} is no JSON: {error}") from error
        if not isinstance(every, list) or max(self.entries) >= len(every) or min(self.entries) < 0:
            raise ValueError(f"{self.path} is no list with the entries {list(self.entries)}")
        chosen = [every[k] for k in self.entries]
        if self.queries is None:
            return [(record, self._own(record)) for record in chosen]
        lines = [line for _, line in records(self.queries)]
        each, rest = divmod(len(lines), len(chosen))
        if rest or not each or any({"input", "target"} - set(line) for line in lines):
            raise ValueError(
                f"{self.queries} must have input and target in each line, and as many lines for "
                f"each of {len(chosen)} entries, not {len(lines)}"
            )
        pairs = [(line["input"], line["target"]) for line in lines]
        return [(r, pairs[k * each : (k + 1) * each]) for k, r in enumerate(chosen)]

    def _own(self, record: dict[str, Any]) -> list[Any]:
        sides = [record.get(f"{self.probes}_{side}", ()) for side in ("input", "target")]
        if len(sides[0]) != len(sides[1]) or not sides[0]:
            raise ValueError(f"{self.path}: an entry lacks probes of the kind {self.probes!r}")
        return list(zip(*sides, strict=True))
