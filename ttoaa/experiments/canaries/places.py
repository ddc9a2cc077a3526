"""Requests that score canaries where they stood in training, after the tokens of their row."""

from collections.abc import Sequence

import numpy as np

from ttoaa.experiments.canaries.conditions import Condition
from ttoaa.experiments.scorer import Scorer
from ttoaa.scoring.requests import Request


def in_place_requests(model: Scorer, conditions: Sequence[Condition]) -> list[Request]:
    """Return a request for each item: its text, given the tokens that precede it in its row.

    A member is placed where its first copy stood, a non-member where one of its matched members
    did, in turn. Rows are those of the full run, also for the control run.
    """
    items = model.items
    copies = model.copies[model.copies["repetition"] == 0].set_index("id")
    places: dict[str, list[str]] = {}
    for condition in conditions:
        if condition.repetitions:
            members = items["id"][items["condition"] == condition.name]
            places.setdefault(condition.matched, []).extend(members)
    number: dict[str, int] = {}
    chosen = []
    for item, condition, repetitions in zip(
        items["id"], items["condition"], items["repetitions"], strict=True
    ):
        number[condition] = count = number.get(condition, -1) + 1
        there = places.get(condition, [])
        chosen.append(item if repetitions else there[count % len(there)])
    stood = copies.loc[chosen]
    requests = []
    rows = model.rows(stood["position"].to_numpy())
    for row, offset, tokens in zip(rows, stood["offset"], items["tokens"], strict=True):
        text = np.asarray(tokens, np.int32)[:-1]
        requests.append((np.concatenate([row[:offset], text]), int(offset) + 1))
    return requests
