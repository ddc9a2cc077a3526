"""What there is to know: entities, the facts told of them together, and questions for each.

An arm: the entities that one policy is given, encoded.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ttoaa.data.geometry import Geometry
from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.acquisition.policy import Controlled, Policy, Setting, Target
from ttoaa.experiments.controllers import Measured


@dataclasses.dataclass(frozen=True)
class Cloze:
    """A beginning in words that no training text has, and the short target that ends it.

    What is scored is `context + ' ' + target`, and of it the probability of the target.
    """

    fact: str
    context: str
    target: str


@dataclasses.dataclass(frozen=True)
class Topic:
    """Facts that are always told together: what has one rate of exposure."""

    texts: tuple[str, ...]
    """Different wordings of the same facts."""
    probes: tuple[Cloze, ...]


@dataclasses.dataclass(frozen=True)
class Entity:
    """The unit that arms are made of: no two arms have facts of the same one."""

    name: str
    topics: tuple[Topic, ...]


class Knowledge(Protocol):
    """Where entities come from."""

    def entities(self, count: int, rng: np.random.Generator) -> Sequence[Entity]:
        """In random order; raises ValueError where there are fewer."""
        ...


@dataclasses.dataclass(frozen=True)
class Probe:
    """A cloze as it is scored."""

    id: str
    topic: int
    cloze: Cloze
    tokens: np.ndarray
    """int32[n]: EOS, context and target, encoded as one text."""
    start: int
    """The first token of the target."""


@dataclasses.dataclass(frozen=True)
class Arm:
    """What a policy decides about."""

    policy: Policy
    setting: Setting
    topics: Sequence[str]
    """Their ids."""
    wordings: Sequence[str]
    texts: Sequence[np.ndarray]
    """int32[n] each: a wording between two EOS; the first only where a row has room."""
    probes: Sequence[Probe]

    @classmethod
    def make(
        cls,
        policy: Policy,
        entities: Sequence[Entity],
        tokenizer: Tokenizer,
        geometry: Geometry,
        every: int,
        target: Target,
    ) -> "Arm":
        """Raises ValueError for a text that does not fit a row."""
        topics = [(f"{e.name}/{k}", topic) for e in entities for k, topic in enumerate(e.topics)]
        most = max(len(topic.texts) for _, topic in topics)
        # One text of each topic, then the next of each: a rotation tells all alike.
        told = [
            (number, topic.texts[k])
            for k in range(most)
            for number, (_, topic) in enumerate(topics)
            if k < len(topic.texts)
        ]
        wordings = [text for _, text in told]
        encoded = tokenizer.encode_batch(wordings)
        texts = [_document(tokens, tokenizer.eos_id, geometry.length) for tokens in encoded]
        probes = [
            _probe(f"{name}/{k}", number, cloze, tokenizer)
            for number, (name, topic) in enumerate(topics)
            for k, cloze in enumerate(topic.probes)
        ]
        setting = Setting(
            text_topic=tuple(number for number, _ in told),
            text_tokens=tuple(map(len, texts)),
            probe_topic=tuple(probe.topic for probe in probes),
            every=every,
            steps=geometry.steps,
            target=target,
        )
        return cls(policy, setting, [name for name, _ in topics], wordings, texts, probes)

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def slots(self) -> int:
        """Of an interval."""
        return self.policy.slots(self.setting)

    def controller(self) -> Controlled:
        """It fills the slots of the item that has the arm's name."""
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


def _document(tokens: np.ndarray, eos_id: int, length: int) -> np.ndarray:
    eos = np.array([eos_id], np.int32)
    if len(tokens) + 1 > length:
        raise ValueError(
            f"a text of {len(tokens)} tokens, which with an EOS does not fit a row of {length}: "
            "take shorter texts or longer rows"
        )
    return np.concatenate([eos, tokens, eos] if len(tokens) + 2 <= length else [tokens, eos])


def _probe(name: str, topic: int, cloze: Cloze, tokenizer: Tokenizer) -> Probe:
    tokens, start = tokenizer.encode_pair(cloze.context, f" {cloze.target}")
    return Probe(name, topic, cloze, np.insert(tokens, 0, tokenizer.eos_id), start + 1)
