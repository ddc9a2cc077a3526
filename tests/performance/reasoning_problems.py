"""Distributions of generated problems: python -m tests.performance.reasoning_problems

Prints one JSON line: shares of operations, sentences, templates by operations, answers, and the
milliseconds that a problem takes: of given operations, and by the redraw law of iGSM's own code
(a whole problem is drawn, of any operations, until it has those asked).
"""

import collections
import json
import time
from collections.abc import Sequence

import numpy as np
from absl import app, flags

from ttoaa.experiments.reasoning.dataset import draw_problems
from ttoaa.experiments.reasoning.problem import Arithmetic, draw_operations
from ttoaa.experiments.reasoning.structure import Draws

_PROBLEMS = flags.DEFINE_integer("problems", 1500, "problems to draw", 1)
_MOST = flags.DEFINE_integer("most", 10, "operations at most", 1)
_TIMED = flags.DEFINE_integer("timed", 300, "problems to time", 1)


def main(argv: Sequence[str]) -> None:
    del argv
    arithmetic, most = Arithmetic(), _MOST.value
    problems = list(draw_problems(arithmetic, "laws", _PROBLEMS.value, most))
    sentences = [problem.question.count("The number of each") for problem in problems]
    by_operations = collections.defaultdict(list)
    for problem in problems:
        by_operations[problem.operations].append(problem)
    sizes = Draws("timed")
    asked = [draw_operations(sizes, most) for _ in range(_TIMED.value)]
    result = {
        "problems": len(problems),
        "percent_by_operations": {
            op: round(100 * len(by_operations[op]) / len(problems), 1) for op in range(1, most + 1)
        },
        "templates_by_operations": {
            op: len({problem.template for problem in by_operations[op]})
            for op in range(1, most + 1)
        },
        "sentences_mean": round(float(np.mean(sentences)), 2),
        "sentences_most": max(sentences),
        "percent_answer_zero": round(100 * np.mean([p.answer == 0 for p in problems]), 1),
        "milliseconds_fixed": _milliseconds(arithmetic.draw, asked),
        "milliseconds_redrawn": _milliseconds(lambda k, op: _redrawn(arithmetic, k, op), asked),
    }
    print(json.dumps(result))


def _milliseconds(draw: object, asked: Sequence[int]) -> float:
    assert callable(draw)
    started = time.process_time()
    for number, operations in enumerate(asked):
        draw(f"timed/{number}", operations)
    return round(1000 * (time.process_time() - started) / len(asked), 2)


def _redrawn(arithmetic: Arithmetic, key: str, operations: int) -> None:
    """Draws sizes anew, of up to the most operations, until the problem has those asked."""
    draws = Draws(key)
    while True:
        size = draw_operations(draws, _MOST.value)
        if arithmetic.draw(f"{key}/{draws.uniform()}", size).operations == operations:
            return


if __name__ == "__main__":
    app.run(main)
