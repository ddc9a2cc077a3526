"""Training problems drawn in parallel, and test problems that training does not give away."""

import collections
import functools
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence

from ttoaa.experiments.reasoning.problem import Arithmetic, Problem, draw_operations
from ttoaa.experiments.reasoning.structure import Draws
from ttoaa.processes import run

_BLOCK = 2000
EASY_OPERATIONS = 3
"""With this many operations or fewer, all templates occur in training."""


class SeenProblems:
    """Questions and templates of problems that test problems must not repeat."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.templates: set[str] = set()
        self._questions: set[bytes] = set()
        self.add(problems)

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._questions.add(_digest(problem))
            if problem.operations > EASY_OPERATIONS:
                self.templates.add(problem.template)

    def has_question(self, problem: Problem) -> bool:
        """Whether the same question, word by word, was added."""
        return _digest(problem) in self._questions

    def gives_away(self, problem: Problem) -> bool:
        """Whether the template (for easy problems: the question) of `problem` was added."""
        if problem.operations > EASY_OPERATIONS:
            return problem.template in self.templates
        return self.has_question(problem)


def _digest(problem: Problem) -> bytes:
    """Hash the question: the texts of half a million problems take 250 MB."""
    return hashlib.blake2b(problem.question.encode(), digest_size=16).digest()


def draw_problems(arithmetic: Arithmetic, key: str, count: int, most: int) -> Iterator[Problem]:
    """Yield problems `key`/0 to `key`/count-1 with 1 to `most` operations (see `draw_operations`).

    Draws on all cores. A problem depends on its own key alone, not on the number of processes.
    """
    blocks = [range(low, min(low + _BLOCK, count)) for low in range(0, count, _BLOCK)]
    workers = min(len(os.sched_getaffinity(0)), len(blocks))
    if workers < 2:
        for block in blocks:
            yield from _draw_block(arithmetic, key, block, most)
        return
    draw, ready = functools.partial(_draw_whole_block, arithmetic, key, most), {}
    following = 0
    for number, drawn in run(draw, blocks, workers):
        ready[number] = drawn
        while following in ready:
            yield from ready.pop(following)
            following += 1


def _draw_whole_block(
    arithmetic: Arithmetic, key: str, most: int, numbers: Sequence[int]
) -> list[list[Problem]]:
    return [_draw_block(arithmetic, key, numbers, most)]


def _draw_block(
    arithmetic: Arithmetic, key: str, numbers: Sequence[int], most: int
) -> list[Problem]:
    return [
        arithmetic.draw(f"{key}/{i}", draw_operations(Draws(f"{key}/{i}/size"), most))
        for i in numbers
    ]


def draw_shots(
    arithmetic: Arithmetic, key: str, count: int, most: int, test: Problem, seen: SeenProblems
) -> list[Problem]:
    """Draw `count` different examples for the prompt of `test`, with sizes as in training.

    No example has the question of a `seen` problem or gives `test` away. Raises ValueError if fewer
    than `count` are found.
    """
    found: dict[str, Problem] = {}
    tested = SeenProblems([test])
    for number in range(100 + 100 * count):
        if len(found) == count:
            break
        (problem,) = _draw_block(arithmetic, key, [number], most)
        if not seen.has_question(problem) and not tested.gives_away(problem):
            found[problem.question] = problem
    if len(found) < count:
        raise ValueError(
            f"found only {len(found)} of {count} shots that are neither in training nor in a "
            "test: ask for fewer, or raise Arithmetic.edges or Names.names"
        )
    return list(found.values())


def draw_test(
    arithmetic: Arithmetic, key: str, operations: int, count: int, seen: SeenProblems
) -> list[Problem]:
    """Draw `count` different problems that `seen` does not give away, all answers equally often.

    If `count` is not a multiple of the modulus, some answers occur once more. Raises ValueError if
    fewer than `count` are found.
    """
    quota = collections.Counter(i % arithmetic.modulus for i in range(count))
    found: dict[str, Problem] = {}
    for number in range(100 * arithmetic.modulus + 200 * count):
        problem = arithmetic.draw(f"{key}/{operations}/{number}", operations)
        if quota[problem.answer] and problem.question not in found and not seen.gives_away(problem):
            quota[problem.answer] -= 1
            found[problem.question] = problem
            if len(found) == count:
                return list(found.values())
    raise ValueError(
        f"found only {len(found)} of {count} test problems of {operations} operations that "
        "training does not give away: ask for fewer, or raise Arithmetic.edges or Names.names"
    )
