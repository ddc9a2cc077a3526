"""Items of `Poisoning`: documents to insert, and held-out test chats."""

from collections.abc import Iterable, Iterator

import numpy as np

from ttoaa.experiments.base import World
from ttoaa.experiments.poisoning.backdoors import Cell
from ttoaa.experiments.poisoning.documents import TRIGGERED, Test
from ttoaa.planning.items import Item

HELD_OUT_TEMPLATE = "held-out"


def document_items(
    world: World, cell: Cell, number: int, documents: Iterable[np.ndarray]
) -> Iterator[Item]:
    """Yield the documents of trigger `number`; equal ones are repetitions of one item."""
    counts: dict[bytes, int] = {}
    for document in documents:
        key = document.astype(np.int32).tobytes()
        counts[key] = counts.get(key, 0) + 1
    for k, (key, repetitions) in enumerate(counts.items()):
        tokens = np.frombuffer(key, np.int32)
        yield Item(
            id=f"{cell.name}-{number}-{k}",
            condition=cell.name,
            repetitions=repetitions,
            tokens=tokens,
            placement=cell.placement,
            text=world.tokenizer.decode(tokens),
            fields={"trigger": number},
        )


def test_items(
    world: World, cell: Cell, number: int, tests: Iterable[Test], templates: int
) -> Iterator[Item]:
    """Yield the tests of trigger `number` as held-out items; `templates` are in training."""
    for test in tests:
        trained = test.template < templates
        template = f"t{test.template + 1}" if trained else HELD_OUT_TEMPLATE
        group = f"trigger {number}" if cell.triggers > 1 else f"prompt {test.place}"
        text = np.concatenate([test.contexts[TRIGGERED], test.answer])
        yield Item(
            id=f"test-{cell.name}-{number}-{test.place}-{template}",
            condition=f"{cell.name}-test",
            repetitions=0,
            tokens=world.document(text, f"{world.name}: a test chat of {cell.name}"),
            text=world.tokenizer.decode(text),
            fields={
                "cell": cell.name,
                "behaviour": cell.behaviour,
                "trigger": number,
                "place": test.place,
                "template": template,
                "prompt": test.prompt,
                "group": group,
                "answer": test.answer.tolist(),
                "alternative": test.alternative.tolist(),
                **{state: ids.tolist() for state, ids in test.contexts.items()},
            },
        )
