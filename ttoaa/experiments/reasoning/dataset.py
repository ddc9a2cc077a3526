"""Many problems: drawn in parallel, and test problems that no training problem gives away."""

import collections
import concurrent.futures
import hashlib
import multiprocessing
import os
from collections.abc import Iterable, Iterator, Sequence

from ttoaa.experiments.reasoning.problem import Arithmetic, Problem, light
from ttoaa.experiments.reasoning.structure import Draws

_BLOCK = 2000
EASY = 3
"""Up to so many operations templates are one or few, and all are in training."""


class Seen:
    """What test problems must not share with the training problems."""

    def __init__(self, problems: Iterable[Problem] = ()) -> None:
        self.templates: set[str] = set()
        self._questions: set[bytes] = set()
        self.add(problems)

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            self._questions.add(_digest(problem))
            if problem.operations > EASY:
                self.templates.add(problem.template)

    def holds(self, problem: Problem) -> bool:
        """The same question, word by word."""
        return _digest(problem) in self._questions

    def gives_away(self, problem: Problem) -> bool:
        if problem.operations > EASY:
            return problem.template in self.templates
        return self.holds(problem)


def _digest(problem: Problem) -> bytes:
    """Of half a million problems the texts are a quarter of a gigabyte."""
    return hashlib.blake2b(problem.question.encode(), digest_size=16).digest()


def draw_problems(arithmetic: Arithmetic, key: str, count: int, most: int) -> Iterator[Problem]:
    """Problems `key`/0 to `key`/count-1, of 1 to `most` operations by the law of sizes.

    Each follows from its own key, so processes, one a core, change nothing but the time.
    """
    blocks = [range(low, min(low + _BLOCK, count)) for low in range(0, count, _BLOCK)]
    workers = min(len(os.sched_getaffinity(0)), len(blocks))
    if workers < 2:
        for block in blocks:
            yield from _block(arithmetic, key, block, most)
        return
    spawned = multiprocessing.get_context("spawn")  # forking does not go with threads
    with concurrent.futures.ProcessPoolExecutor(workers, spawned) as pool:
        n = len(blocks)
        for drawn in pool.map(_block, [arithmetic] * n, [key] * n, blocks, [most] * n):
            yield from drawn


def _block(arithmetic: Arithmetic, key: str, numbers: Sequence[int], most: int) -> list[Problem]:
    return [arithmetic.draw(f"{key}/{i}", light(Draws(f"{key}/{i}/size"), most)) for i in numbers]


def draw_shots(
    arithmetic: Arithmetic, key: str, count: int, most: int, test: Problem, seen: Seen
) -> list[Problem]:
    """Different examples for the prompt of `test`, by the law of sizes as in training.

    None has the question of a problem that is `seen`, or gives the test away. Raises ValueError
    where so many cannot be found.
    """
    found: dict[str, Problem] = {}
    asked = Seen([test])
    for number in range(100 + 100 * count):
        if len(found) == count:
            break
        (problem,) = _block(arithmetic, key, [number], most)
        if not seen.holds(problem) and not asked.gives_away(problem):
            found[problem.question] = problem
    if len(found) < count:
        raise ValueError(
            f"only {len(found)} of {count} shots were found that are neither in training nor in a "
            "test: ask for fewer, or raise Arithmetic.edges or Names.names"
        )
    return list(found.values())


def draw_test(
    arithmetic: Arithmetic, key: str, operations: int, count: int, seen: Seen
) -> list[Problem]:
    """Different problems, none given away by what is `seen`, all answers equally often.

    Where `count` is no multiple of the modulus some answers stand once more. Raises ValueError
    where so many cannot be found.
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
        f"only {len(found)} of {count} test problems of {operations} operations were found that "
        "training does not give away: ask for fewer, or raise Arithmetic.edges or Names.names"
    )
