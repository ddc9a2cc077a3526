"""Training problems drawn in parallel, and test problems that training does not give away."""

import collections
import functools
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence

from ttoaa.experiments.reasoning.problem import Arithmetic, Problem, draw_operations
from ttoaa.experiments.reasoning.structure import Draws
from ttoaa.processes import run

_BLOCK = 2000
NEW_TEMPLATES_FROM = 4
"""Default of the fewest operations of which test problems have templates of their own."""


class SeenProblems:
    """Questions, solutions and templates of problems that test problems must not repeat.

    Templates count from `new_templates_from` operations on; all of easier problems are common.
    """

    def __init__(
        self, problems: Iterable[Problem] = (), new_templates_from: int = NEW_TEMPLATES_FROM
    ) -> None:
        self.templates: set[str] = set()
        self._from = new_templates_from
        self._questions: set[int] = set()
        self._traces: set[int] = set()
        self.add(problems)

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._questions.add(_digest(problem.question))
            self._traces.update(map(_digest, traces(problem.solution)))
            if problem.operations >= self._from:
                self.templates.add(problem.template)

    def has_question(self, problem: Problem) -> bool:
        """Whether the same question, word by word, was added."""
        return _digest(problem.question) in self._questions

    def has_solution(self, problem: Problem) -> bool:
        """Whether the solution was added, as a whole or as a part of a longer one (`traces`)."""
        return _digest(next(traces(problem.solution))) in self._traces

    def gives_away(self, problem: Problem) -> bool:
        """Whether the question or the solution of `problem` was added, or its template."""
        if self.has_question(problem) or self.has_solution(problem):
            return True
        return problem.operations >= self._from and problem.template in self.templates


_STEPS = re.compile(r"(?<=\.) (?=Define )")
_LETTER = re.compile(r"\b[A-Za-z]\b")


def traces(solution: str) -> Iterator[str]:
    """Yield the solution with its letters in order of first use; then those that it contains.

    A part of a solution is contained if it is a run of whole steps that uses no letter of another
    step. It could be the solution of a problem.
    """
    steps = _STEPS.split(solution)
    for first in range(len(steps)):
        letters: dict[str, str] = {}
        runs: list[str] = []
        for step in steps[first:]:
            normalised = _rename(step, letters)
            if normalised is None:
                break
            runs.append(f"{runs[-1]} {normalised}" if runs else normalised)
        yield from reversed(runs)


def _rename(step: str, letters: dict[str, str]) -> str | None:
    """Rename the letters of a step by `letters`, to which new ones are added.

    Returns None if the step uses a letter that is not defined there.
    """
    name, _, rest = step.partition(" as ")
    letter, *equations = rest.split("; ")
    letters[letter] = f"v{len(letters)}"
    for equation in equations:
        result, _, terms = equation.removeprefix("so ").partition(" = ")
        if not letters.keys() >= set(_LETTER.findall(terms)):
            return None
        letters.setdefault(result, f"v{len(letters)}")
    return f"{name} as {_LETTER.sub(lambda m: letters[m[0]], rest)}"


def _digest(text: str) -> int:
    """Hash a text to 64 bits: the texts of half a million problems take 250 MB."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


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
) -> tuple[list[Problem], int]:
    """Draw `count` problems that `seen` does not give away, all answers equally often.

    Their solutions differ. If `count` is not a multiple of the modulus, some answers occur once
    more. Also returns how many problems were redrawn since `seen` gives them away. Raises
    ValueError if fewer than `count` are found.
    """
    quota = collections.Counter(i % arithmetic.modulus for i in range(count))
    found: dict[str, Problem] = {}
    redrawn = 0
    for number in range(100 * arithmetic.modulus + 200 * count):
        problem = arithmetic.draw(f"{key}/{operations}/{number}", operations)
        trace = next(traces(problem.solution))
        if not quota[problem.answer] or trace in found:
            continue
        if seen.gives_away(problem):
            redrawn += 1
            continue
        quota[problem.answer] -= 1
        found[trace] = problem
        if len(found) == count:
            return list(found.values()), redrawn
    raise ValueError(
        f"found only {len(found)} of {count} test problems of {operations} operations with "
        f"different solutions that training does not give away ({redrawn} were redrawn): lower "
        "test_problems or problems, or raise new_templates_from, the names, Arithmetic.modulus or "
        "Arithmetic.edges"
    )
