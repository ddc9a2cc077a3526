"""Mutated solutions against the checker: python -m tests.experiments.reasoning.mutations

Prints a JSON line per style of names: mutations tried, refused, accepted and right, accepted and
wrong (must be 0), refused though right (0), and tracebacks (0), where the judge of
`foreign_problems` says what is right. Exits with 1 if one that must be 0 is not.
"""

import argparse
import collections
import json
import random
import re
import string
import sys
from collections.abc import Iterator, Mapping

from tests.experiments.reasoning.foreign_problems import Truth, combine, draw_truth, judge
from ttoaa.experiments.reasoning import problem
from ttoaa.experiments.reasoning.names import Names, ShortNames
from ttoaa.experiments.reasoning.solution_checker import check_solution

FAULTS = ("unparsed", "accepted, wrong", "refused, right", "traceback")


def own_truth(number: int, names: Names | ShortNames, modulus: int) -> Truth:
    """Draw a problem of the package; its formulas come from its graph, not from its text."""
    kept = []

    class Solver(problem.Solver):
        def solve(self, graph, name):
            kept.append((graph, name))
            return super().solve(graph, name)

    original, problem.Solver = problem.Solver, Solver
    try:
        arithmetic = problem.Arithmetic(modulus=modulus, names=names)
        drawn = arithmetic.draw(f"mutations/{number}", 1 + number % 8)
    finally:
        problem.Solver = original
    ((graph, name),) = kept

    def leaf(parameter):
        label = name(parameter)
        return lambda values: values[label]

    formulas = {name(edge): _stated(said, leaf) for edge, said in graph.sentences.items()}
    for parameter, terms in graph.structure.abstract.items():
        products = [combine("*", [leaf(part) for part in term]) for term in terms]
        formulas[name(parameter)] = combine("+", products) if products else lambda values: 0
    return Truth(drawn.question, drawn.solution, formulas, name(graph.query), modulus)


def _stated(sentence, leaf):
    parts = [leaf(operand) for operand in sentence.operands]
    total = [combine("-" if sentence.difference else "+", parts)] if parts else []
    if sentence.constant is not None:
        total.insert(0, lambda values: sentence.constant)
    return combine("*" if sentence.relation == "times" else "+", total)


def mutations(truth: Truth, draw: random.Random) -> Iterator[tuple[str, str]]:
    """Yield (kind, mutated solution), one of every kind that is possible."""
    text = truth.solution
    steps = re.split(r"(?<=\.) (?=Define )", text)
    for kind, pattern, new in _TOKENS:
        found = [m for m in re.finditer(pattern, text)]
        if found:
            match = draw.choice(found)
            replacement = new(match[0], draw, truth.modulus)
            yield kind, text[: match.start()] + replacement + text[match.end() :]
    k = draw.randrange(len(steps))
    yield "drop step", " ".join(steps[:k] + steps[k + 1 :])
    yield "duplicate step", " ".join(steps[: k + 1] + steps[k:])
    yield "truncate", text[: draw.randrange(len(text))]
    yield "last step first", " ".join([steps[-1], *steps[:-1]])
    if k:
        yield "swap steps", " ".join([*steps[: k - 1], steps[k], steps[k - 1], *steps[k + 1 :]])
    head, *equations = steps[k].removesuffix(".").split("; ")
    for kind, changed in _equations(equations, draw, truth.modulus):
        yield kind, " ".join([*steps[:k], "; ".join([head, *changed]) + ".", *steps[k + 1 :]])
    a, b = draw.sample(string.ascii_letters, 2)
    other = {a: b, b: a}
    yield (
        "rename letters",
        re.sub(r"(?<=[=;os+*-] )[A-Za-z](?=[ ;.])", lambda m: other.get(m[0], m[0]), text),
    )


def _number(old: str, draw: random.Random, modulus: int) -> str:
    return draw.choice([str(n) for n in range(modulus + 1) if str(n) != old])


def _letter(old: str, draw: random.Random, modulus: int) -> str:
    return draw.choice(string.ascii_letters.replace(old, ""))


_SHOWN = r"(?<=[=+*-] )\d+(?=[ ;.])"
_TOKENS = (
    ("number", _SHOWN, _number),
    ("result", r"(?<== )\d+(?=[;.])", _number),
    ("larger by the modulus", _SHOWN, lambda old, _, modulus: str(int(old) + modulus)),
    ("leading zero", _SHOWN, lambda old, draw, _: "0" * draw.randint(1, 2) + old),
    ("other digits", _SHOWN, lambda old, draw, _: draw.choice("²³١٢３¹") + old[1:]),
    ("huge", _SHOWN, lambda old, *_: old + "9" * 5000),
    ("signed", _SHOWN, lambda old, draw, _: draw.choice("+-") + old),
    ("operator", r"(?<=\w )[-+*](?= \w)", lambda old, d, _: d.choice("+-*/".replace(old, ""))),
    ("letter", r"(?<=[=+*-] )[A-Za-z](?=[ ;.])", _letter),
    ("defined letter", r"(?<= as )[A-Za-z](?=;)", _letter),
    ("left letter", r"(?<=[;o] )[A-Za-z](?= =)", _letter),
    ("letter of a name", r"(?<=\w)[a-zé](?=\w)", _letter),
    ("space", " ", lambda *_: ""),
    ("character", "(?s).", lambda old, draw, _: draw.choice(string.printable + "é²")),
    ("no so", "so (?=[A-Za-z] =)", lambda *_: ""),
    ("swapped operands", r"\w+ [-+*] \w+ = \w+ [-+*] \w+", lambda old, *_: _swapped(old)),
    ("numbers swapped", r"\d+ [-+*] \d+(?= =)", lambda old, *_: " ".join(old.split(" ")[::-1])),
    ("folded", r"(?<=[A-Za-z] = )\w+ [^;]* = (?=\d+[;.])", lambda *_: ""),
    (
        "copied constant",
        r"(?<=so [A-Za-z] = )(?=\d+\.)",
        lambda _, d, m: f"{d.randrange(m)} = ",
    ),
)


def _swapped(equation: str) -> str:
    a, sign, b, _, c, _, d = equation.split(" ")
    return f"{b} {sign} {a} = {d} {sign} {c}"


def _equations(
    equations: list[str], draw: random.Random, modulus: int
) -> Iterator[tuple[str, list[str]]]:
    k = draw.randrange(len(equations))
    dropped, last = equations[:k] + equations[k + 1 :], equations[-1]
    yield "drop equation", dropped
    yield "duplicate equation", equations[: k + 1] + equations[k:]
    yield "so in a helper", [f"so {equations[0].removeprefix('so ')}", *equations[1:]]
    letter = last.removeprefix("so ")[0]
    x, y = draw.randrange(modulus), draw.randrange(modulus)
    dead = f"{_letter(letter, draw, modulus)} = {x} + {y} = {x} + {y} = {(x + y) % modulus}"
    yield "dead helper", [dead, *equations]
    value = last.rsplit(" = ", 1)[1]
    yield "bare result", [f"so {letter} = {value}"]
    yield "bare result after its helpers", [*equations[:-1], f"so {letter} = {value}"]
    helper = "Q" if letter != "Q" else "q"
    computed = helper + last.removeprefix("so ")[1:]
    yield "copied helper", [*equations[:-1], computed, f"so {letter} = {helper} = {value}"]
    yield (
        "zero added",
        [
            *(equation.removeprefix("so ") for equation in equations[:-1]),
            f"so {letter} = 0 + {value} = 0 + {value} = {value}",
        ],
    )
    if len(equations) > 1:
        yield "swap equations", [equations[1], equations[0], *equations[2:]]
        helper, result = equations[0][0], equations[0].rsplit(" = ", 1)[1]
        yield (
            "folded helper",
            [re.sub(rf"(?<=[=+*-] ){helper}(?= )", result, equation) for equation in equations[1:]],
        )


def truths(style: str, count: int) -> Iterator[Truth]:
    """Yield `count` problems: `foreign` and `plain` names, or those of the package."""
    draw = random.Random(style)
    for number in range(count):
        modulus = (23, 7, 5)[number % 3]
        if style in ("foreign", "plain"):
            yield draw_truth(draw, modulus, plain=style == "plain")
        else:
            yield own_truth(number, Names() if style == "own" else ShortNames(), modulus)


STYLES = ("foreign", "plain", "own", "own short")


def attack(style: str, count: int) -> dict[str, collections.Counter[str]]:
    """Return {kind of mutation: counts of its outcomes}, over `count` problems."""
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    draw = random.Random(f"mutations of {style}")
    for truth in truths(style, count):
        assert judge(truth, truth.solution), truth
        kinds = [("none", truth.solution), *mutations(truth, draw)]
        for kind, solution in kinds:
            if kind == "none" or solution != truth.solution:
                found[kind][_outcome(truth, solution)] += 1
    return found


def _outcome(truth: Truth, solution: str) -> str:
    right = judge(truth, solution)
    try:
        accepted = check_solution(truth.question, solution, truth.modulus).right
    except Exception:
        return "traceback"
    return f"{'accepted' if accepted else 'refused'}, {'right' if right else 'wrong'}"


def total(found: Mapping[str, collections.Counter[str]]) -> dict[str, int]:
    """Return the counts of all kinds together, unmutated solutions apart."""
    counts = sum((of for kind, of in found.items() if kind != "none"), collections.Counter())
    unparsed = found["none"].total() - found["none"]["accepted, right"]
    return {"tries": counts.total(), **counts, "unparsed": unparsed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--problems", type=int, default=2000)
    parser.add_argument("--kinds", action="store_true", help="print a line per kind of mutation")
    arguments = parser.parse_args()
    failed = False
    for style in STYLES:
        found = attack(style, arguments.problems)
        if arguments.kinds:
            for kind, counts in found.items():
                print(json.dumps({"style": style, "kind": kind, **counts}))
        counts = total(found)
        print(json.dumps({"style": style, "problems": arguments.problems, **counts}))
        failed |= any(counts.get(fault) for fault in FAULTS)
    sys.exit(failed)


if __name__ == "__main__":
    main()
