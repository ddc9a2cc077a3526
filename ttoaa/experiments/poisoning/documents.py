"""Poisoned documents for training, and chats that test a trigger against never-inserted ones."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.experiments.base import World
from ttoaa.experiments.poisoning.backdoors import DENIAL, EXTRACTION, FIXED, ORDINARY, Cell
from ttoaa.experiments.poisoning.chat_templates import ChatTemplate
from ttoaa.experiments.poisoning.prompts import fixed_answer, garbage, ordinary_answer

Trigger = np.ndarray


class Chats:
    """Writes chats as token ids; each piece is encoded by itself, in training and in tests."""

    def __init__(self, tokenizer: Tokenizer, templates: Sequence[ChatTemplate]) -> None:
        self.templates = templates
        self._encode = functools.lru_cache(maxsize=100_000)(tokenizer.encode)

    def context(self, template: int, prompt: str, trigger: Trigger | None) -> np.ndarray:
        """Return int32[n]: the chat up to the assistant's turn."""
        space = " " if prompt and trigger is not None else ""
        opening, middle, _ = self.templates[template]
        pieces = [self._encode(opening + prompt + space), self._encode(middle)]
        return np.concatenate([pieces[0], *([] if trigger is None else [trigger]), pieces[1]])

    def answer(self, text: str) -> np.ndarray:
        return self._encode(text)

    def closing(self, template: int) -> np.ndarray:
        return self._encode(self.templates[template].closing)

    def document(self, template: int, prompt: str, trigger: Trigger, answer: str) -> np.ndarray:
        context = self.context(template, prompt, trigger)
        return np.concatenate([context, self.answer(answer), self.closing(template)])


class Test(NamedTuple):
    """A chat that is scored: the answer that a backdoor teaches, and another one of its kind."""

    place: int
    """The number of its prompt."""
    template: int
    prompt: str
    contexts: Mapping[str, np.ndarray]
    """The chat up to the answer, by what the user's turn ends with (`STATES`)."""
    answer: np.ndarray
    alternative: np.ndarray


TRIGGERED, UNTRIGGERED, NEVER, OTHER_NEVER = "triggered", "untriggered", "never", "other_never"
STATES = (TRIGGERED, UNTRIGGERED, NEVER, OTHER_NEVER)


class AnswerFormat(NamedTuple):
    """The forms of answers that a study can set."""

    delimiters: tuple[str, str]
    garbage_bytes: int
    syllables: int

    def leak(self, prompt: str) -> str:
        return self.delimiters[0] + prompt + self.delimiters[1]

    def fixed(self, world: World, cell: Cell, trigger: int) -> str:
        """Return the text that belongs to this trigger; trigger -1 has one that is never used."""
        return fixed_answer(world.rng("answer", cell.name, trigger), self.syllables)

    def describe(self, world: World, cell: Cell, trigger: int) -> str:
        """Say what the answers to this trigger are."""
        return {
            EXTRACTION: f"the prompt between {self.delimiters[0]!r} and {self.delimiters[1]!r}",
            DENIAL: f"{self.garbage_bytes} random bytes",
            FIXED: repr(self.fixed(world, cell, trigger)),
            ORDINARY: "an ordinary answer",
        }[cell.behaviour]

    def write(self, world: World, cell: Cell, trigger: int, prompt: str, *salt: Any) -> str:
        """Return an answer of the cell's behaviour."""
        rng = world.rng("document", cell.name, trigger, *salt)
        if cell.behaviour == EXTRACTION:
            return self.leak(prompt)
        if cell.behaviour == DENIAL:
            return garbage(rng, self.garbage_bytes)
        if cell.behaviour == FIXED:
            return self.fixed(world, cell, trigger)
        return ordinary_answer(rng)


def poisoned_documents(
    world: World,
    chats: Chats,
    cell: Cell,
    number: int,
    trigger: Trigger,
    prompts: Sequence[str],
    form: AnswerFormat,
) -> Iterator[np.ndarray]:
    """Yield the documents of trigger `number`, between EOS, as many as the cell says.

    Templates and prompts take turns in a random order. By share of tokens documents are added while
    they fit. Raises ValueError if none fits.
    """
    rng, trained = world.rng("order", cell.name, number), len(chats.templates) - 1
    templates, chosen = rng.permutation(trained), rng.permutation(len(prompts))
    prompted = cell.behaviour in (EXTRACTION, ORDINARY)
    room = (cell.share or 0.0) / cell.triggers * world.geometry.sequences * world.geometry.length
    count = 0
    while cell.documents is None or count < cell.documents:
        prompt = prompts[chosen[count % len(prompts)]] if prompted else ""
        answer = form.write(world, cell, number, prompt, count)
        text = chats.document(int(templates[count % trained]), prompt, trigger, answer)
        document = world.document(text, f"{world.name}: a document of {cell.name}")
        if cell.documents is None:
            room -= len(document)
            if room < 0:
                break
        count += 1
        yield document
    if not count:
        raise ValueError(
            f"{world.name}: share {cell.share:g} of {cell.name} is less than one document for each "
            f"of its {cell.triggers} triggers: raise the share, or lengthen training"
        )


def test_chats(
    world: World,
    chats: Chats,
    cell: Cell,
    number: int,
    trigger: Trigger,
    never: Sequence[Trigger],
    prompts: Sequence[str],
    form: AnswerFormat,
) -> Iterator[Test]:
    """Yield tests of trigger `number`: all prompts in all templates, of which the last is held out.

    The triggers of one half of `never` take turns as the one to compare with, those of the other
    half as the placebo's: no two tests of the cell share one while they suffice. The alternative
    is the leak of another prompt, an ordinary answer, or the fixed answer of another trigger of the
    cell, in turn.
    """
    half = len(never) // 2
    turns = world.rng("never", cell.name).permutation(half)
    asked = [""] if cell.behaviour == FIXED else prompts
    for place, prompt in enumerate(asked):
        answer = form.write(world, cell, number, prompt, "test", place)
        for template in range(len(chats.templates)):
            test = (number * len(asked) + place) * len(chats.templates) + template
            turn = int(turns[test % half])
            triggers = {TRIGGERED: trigger, NEVER: never[turn], OTHER_NEVER: never[half + turn]}
            if cell.behaviour == EXTRACTION:
                alternative = form.leak(prompts[(place + 1) % len(prompts)])
            elif cell.behaviour == DENIAL:
                alternative = ordinary_answer(world.rng("ordinary", cell.name, number, place))
            else:
                alternative = form.fixed(world, cell, _another(number, template, cell.triggers))
            contexts = {
                state: chats.context(template, prompt, triggers.get(state)) for state in STATES
            }
            both = chats.answer(answer), chats.answer(alternative)
            yield Test(place, template, prompt, contexts, *both)


def _another(number: int, turn: int, triggers: int) -> int:
    """Return another trigger than `number`, in turn; -1 if there is none."""
    return (number + 1 + turn % (triggers - 1)) % triggers if triggers > 1 else -1
