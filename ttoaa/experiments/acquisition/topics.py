"""Entities with their texts and probes, and arms: the entities of one policy, encoded."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.acquisition.policy import Controlled, Policy, Setting, Target
from ttoaa.experiments.base import World
from ttoaa.experiments.controllers import Measured


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
        """Encode the texts and probes of `entities`; ValueError if a text does not fit a row."""
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
        return cls(policy, setting, [name for name, _ in topics], wordings, texts, probes)

    @property
    def name(self) -> str:
        return self.policy.name

    @property
    def slots(self) -> int:
        """Slots of an interval."""
        return self.policy.slots(self.setting)

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
