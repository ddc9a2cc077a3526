"""Entities with their texts and probes, arms of encoded entities, and fictional texts from files.

`FictionalTexts` reads the formats of Chang et al. (2024) and of the paper: JSON and JSON lines.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal, NotRequired, Protocol, TypedDict

import gin
import numpy as np

from ttoaa.benchmarks.question import check_paths, read_records
from ttoaa.config_fields import Count, Distinct, Name, NotEmpty, config_class
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.acquisition.policy import Controlled, Policy, Setting, Target
from ttoaa.experiments.base import World
from ttoaa.experiments.controllers import Measured
from ttoaa.json_io import mismatch, read_json


@dataclasses.dataclass(frozen=True)
class Cloze:
    """A probe: a context in a phrasing that no training text uses, and a short target.

    The text is `context + ' ' + target`; the score is the log-probability of the target.
    """

    fact: str
    context: str
    target: str


@dataclasses.dataclass(frozen=True)
class Topic:
    """Facts that every text states together; a topic has one exposure rate."""

    texts: tuple[str, ...]
    """Paraphrases of the same facts."""
    probes: tuple[Cloze, ...]


@dataclasses.dataclass(frozen=True)
class Entity:
    """The unit of assignment: an entity belongs to one arm."""

    name: str
    topics: tuple[Topic, ...]


class Knowledge(Protocol):
    """A source of entities."""

    def entities(self, count: int, rng: np.random.Generator) -> Sequence[Entity]:
        """Return `count` entities in random order; ValueError if there are fewer."""
        ...


@dataclasses.dataclass(frozen=True)
class EncodedProbe:
    """A cloze as tokens."""

    id: str
    topic: int
    cloze: Cloze
    tokens: np.ndarray
    """int32[n]: EOS, context and target, encoded as one text."""
    start: int
    """The index of the target's first token."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """A policy with its texts and probes, encoded."""

    policy: Policy
    setting: Setting
    slots: int
    """Slots of an interval."""
    topics: Sequence[str]
    """The ids of the topics."""
    wordings: Sequence[str]
    texts: Sequence[np.ndarray]
    """int32[n] each: a wording as a document (see `World.document`)."""
    probes: Sequence[EncodedProbe]

    @classmethod
    def make(
        cls,
        policy: Policy,
        entities: Sequence[Entity],
        world: World,
        every: int,
        target: Target,
    ) -> "Arm":
        """Encode the texts and probes of `entities`.

        Raises ValueError if a text does not fit a row, or the policy does not fit the training.
        """
        topics = [(f"{e.name}/{k}", topic) for e in entities for k, topic in enumerate(e.topics)]
        most = max(len(topic.texts) for _, topic in topics)
        # One text of each topic, then the next of each, so that a rotation repeats all equally.
        numbered = [
            (number, topic.texts[k])
            for k in range(most)
            for number, (_, topic) in enumerate(topics)
            if k < len(topic.texts)
        ]
        wordings = [text for _, text in numbered]
        encoded = world.tokenizer.encode_batch(wordings)
        texts = [world.document(t, "a text", "take shorter texts") for t in encoded]
        probes = [
            _encode_probe(f"{name}/{k}", number, cloze, world.tokenizer)
            for number, (name, topic) in enumerate(topics)
            for k, cloze in enumerate(topic.probes)
        ]
        setting = Setting(
            text_topic=tuple(number for number, _ in numbered),
            text_tokens=tuple(map(len, texts)),
            probe_topic=tuple(probe.topic for probe in probes),
            every=every,
            steps=world.geometry.steps,
            target=target,
        )
        names = [name for name, _ in topics]
        return cls(policy, setting, policy.slots(setting), names, wordings, texts, probes)

    @property
    def name(self) -> str:
        return self.policy.name

    def controller(self) -> Controlled:
        """Return the controller that fills the slots of the item with the arm's name."""
        longest = max(len(probe.tokens) for probe in self.probes)
        eos = self.probes[0].tokens[0]
        rows = [np.pad(p.tokens, (0, longest - len(p.tokens)), constant_values=eos)
                for p in self.probes]  # fmt: skip
        measured = Measured(
            tokens_NxL=np.stack(rows),
            start=np.array([probe.start for probe in self.probes]),
            stop=np.array([len(probe.tokens) for probe in self.probes]),
        )
        return Controlled(self.name, self.policy, self.setting, measured, self.texts)


def _encode_probe(name: str, topic: int, cloze: Cloze, tokenizer: Tokenizer) -> EncodedProbe:
    tokens, start = tokenizer.encode_pair(cloze.context, f" {cloze.target}")
    return EncodedProbe(name, topic, cloze, np.insert(tokens, 0, tokenizer.eos_id), start + 1)


class _Entry(TypedDict):
    train_context: str
    paraphrases: NotRequired[list[str]]


PAPER_ENTRIES = (0, 6, 10, 22)
"""The four texts of the paper, as indices into the list of 130."""


@gin.configurable
@config_class
class FictionalTexts:
    """One entity with one topic for each entry of a JSON list: its text and any paraphrases.

    The probes come from the entry (`<probes>_input` and `<probes>_target`) or from `queries`, JSON
    lines with input and target, equally many for each entry in the order of `entries`. White space
    around inputs and targets is removed; two of the paper's queries end in a blank, so that its
    code puts two before the target.
    """

    path: Name
    """JSON: a list of entries with `train_context` and, optionally, `paraphrases`."""
    queries: Name | None = None
    """JSON lines; None: the probes of the entries."""
    entries: Annotated[Sequence[Count], NotEmpty(), Distinct()] = PAPER_ENTRIES
    probes: Literal["mem", "gen", "hard_gen"] = "gen"
    """'mem' (words of the text), 'gen' (paraphrased) or 'hard_gen' (reworded more freely)."""

    def entities(self, count: int, rng: np.random.Generator) -> list[Entity]:
        if count > len(self.entries):
            raise ValueError(
                f"{count} entities are needed, but FictionalTexts.entries has {len(self.entries)}: "
                "add entries, or use fewer entities"
            )
        found = [self._entity(number, *both) for number, both in enumerate(self._read_entries())]
        return [found[k] for k in rng.permutation(len(found))[:count]]

    def _entity(self, number: int, record: dict[str, Any], asked: Sequence[Any]) -> Entity:
        where = f"{self.path}, entry {self.entries[number]}"
        for values, structure in ((record, _Entry), (list(map(list, asked)), list[list[str]])):
            if problem := mismatch(values, structure):
                raise ValueError(f"{where} {problem}")
        texts = [record["train_context"], *record.get("paraphrases", ())]
        pairs = [(a.strip(), b.strip()) for a, b in asked]
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

    def _read_entries(self) -> list[tuple[dict[str, Any], list[Any]]]:
        """Read the chosen records with their (input, target) pairs."""
        check_paths([self.path, *([self.queries] if self.queries else [])], "FictionalTexts")
        every = read_json(pathlib.Path(self.path), list[dict[str, Any]])
        if max(self.entries) >= len(every) or min(self.entries) < 0:
            raise ValueError(f"{self.path} is not a list with the entries {list(self.entries)}")
        chosen = [every[k] for k in self.entries]
        if self.queries is None:
            return [(record, self._own_probes(record)) for record in chosen]
        lines = [line for _, line in read_records(self.queries)]
        each, rest = divmod(len(lines), len(chosen))
        if rest or not each or any({"input", "target"} - set(line) for line in lines):
            raise ValueError(
                f"{self.queries} must have input and target in each line, and equally many lines "
                f"for each of {len(chosen)} entries, not {len(lines)} lines"
            )
        pairs = [(line["input"], line["target"]) for line in lines]
        return [(r, pairs[k * each : (k + 1) * each]) for k, r in enumerate(chosen)]

    def _own_probes(self, record: dict[str, Any]) -> list[Any]:
        sides = [record.get(f"{self.probes}_{side}", ()) for side in ("input", "target")]
        if not all(isinstance(side, list) for side in sides) or len({*map(len, sides)}) != 1:
            sides = [[], []]
        if not sides[0]:
            raise ValueError(f"{self.path}: an entry has no probes of the kind {self.probes!r}")
        return list(zip(*sides, strict=True))
