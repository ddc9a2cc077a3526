"""What accuracy is compared with: constant answers, and rules that copy a stated number."""

import collections
import re
from collections.abc import Callable, Mapping, Sequence

from ttoaa.experiments.reasoning.margins import NUMBER

_QUERY = re.compile(r"How many (.+) does (.+) have\?$")
_RULES: Mapping[str, Callable[[Sequence[int]], int]] = {
    "first": lambda stated: stated[0],
    "last": lambda stated: stated[-1],
    "second": lambda stated: stated[min(1, len(stated) - 1)],
    "last but one": lambda stated: stated[max(-2, -len(stated))],
    "smallest": min,
    "largest": max,
    "most frequent": lambda stated: collections.Counter(stated).most_common(1)[0][0],
}


def best_constant(answers: Sequence[int]) -> list[bool]:
    """Return which problems the constant answer solves that solves most of them."""
    constant, _ = collections.Counter(answers).most_common(1)[0]
    return [answer == constant for answer in answers]


def best_copy(questions: Sequence[str], answers: Sequence[int], operations: int) -> list[bool]:
    """Return which problems are solved by the rule that copies a stated number and solves most.

    The rules are those of `_RULES`, by the place or size of the number in the problem, and, above
    one operation, the number in the sentence of the queried parameter: with one operation this rule
    is the solution.
    """
    stated = [list(map(int, NUMBER.findall(question))) for question in questions]
    guesses = [
        [rule(numbers) if numbers else None for numbers in stated] for rule in _RULES.values()
    ]
    if operations > 1:
        guesses.append([_own_number(question) for question in questions])
    solved = [[g == a for g, a in zip(guess, answers, strict=True)] for guess in guesses]
    return max(solved, key=sum)


def _own_number(question: str) -> int | None:
    """Return the number in the sentence of the queried parameter; None if it has none."""
    query = _QUERY.search(question)
    assert query is not None
    sentence = f"The number of each {query[2]}'s {query[1]} equals "
    _, found, rest = question.partition(sentence)
    number = re.match("[0-9]+", rest) if found else None
    return int(number[0]) if number else None
