"""Problems of an independent generator, with awkward names, and an independent judge of solutions.

Shares no code with the package: a problem is a few layers of items, a random order of computation,
and formulas that the judge evaluates as Python functions.
"""

import dataclasses
import random
import re
import string
from collections.abc import Callable, Mapping

CATEGORIES = (
    ("District", "Supermarket", "Product", "Ingredient"),
    ("Ecosystems", "Creatures", "Organs", "Cells"),
    ("Realm", "Night Market", "Maker's Shelf", "Crumb No. 4"),
)
_FIRST = "Quill Brass Été Öre Mira Señor Nørre Peach Ida Each Salt Tall Zwölf Does Farm Ash"
_LAST = "Farm Pier Été Kiosk Loft Reach Sam Duck Drinks Rumah Yard Sum Pie Vault Bone Más"
_PATTERNS = (
    "{a}",
    "{a} {b}",
    "{a} {b} {c}",
    "{a}'s {b}",
    "Jardin d'{a} {b}",
    "St. {a}'s {b}",
    "{a} {b}s'",
    "{a} and {b}",
    "{a}, {b}",
    "{a} {b} Inc.",
    "{b} of {a}'s",
    "No. 7 {a} {b}",
    "{a} & {b}-{c} 12",
    "O'{a} {b}",
    "Does {a} {b}",
)
POINT = 2**61 - 1
"""A prime: two formulas are the same if they agree at random points modulo it."""

Formula = Callable[[Mapping[str, int]], int]


@dataclasses.dataclass(frozen=True)
class Truth:
    """A problem, a right solution, and what the judge needs."""

    question: str
    solution: str
    formulas: Mapping[str, Formula]
    """ "X's Y" -> its value, not reduced, from the values of others."""
    query: str
    modulus: int


def names(draw: random.Random, count: int, taken: set[str]) -> list[str]:
    """Draw names that are not taken; one in five ends with another one."""
    found: list[str] = []
    while len(found) < count:
        a, b, c = (
            draw.choice(_FIRST.split()),
            draw.choice(_LAST.split()),
            draw.choice(_LAST.split()),
        )
        name = draw.choice(_PATTERNS).format(a=a, b=b, c=c)
        if taken and draw.random() < 0.2:
            name = f"{a} {draw.choice(sorted(taken))}"
        if name not in taken:
            found.append(name)
            taken.add(name)
    return found


def draw_truth(draw: random.Random, modulus: int = 23, plain: bool = False) -> Truth:
    """Draw a problem; `plain`: of one-word names."""
    while True:
        truth = _Draw(draw, modulus, plain).truth()
        if truth is not None:
            return truth


class _Draw:
    def __init__(self, draw: random.Random, modulus: int, plain: bool) -> None:
        self.draw, self.modulus = draw, modulus
        depth = draw.choice((2, 3, 4))
        hierarchy = draw.choice(CATEGORIES)
        first = draw.randrange(5 - depth)
        self.categories = hierarchy[first : first + depth]
        taken: set[str] = set()
        widths = [draw.randint(1, 4 if depth < 4 else 3) for _ in range(depth)]
        words = [f"{c}{v}{d}" for c in "BCDFGKLMNP" for v in "aeiou" for d in "rstn"]
        draw.shuffle(words)
        self.layers = [
            [words.pop() for _ in range(width)] if plain else names(draw, width, taken)
            for width in widths
        ]
        if depth > 2 and draw.random() < 0.2:  # the same word in the last two layers
            self.layers[-1][0] = draw.choice(self.layers[-2])
        self.edges: list[tuple[int, int, int]] = []
        for i in range(1, depth):
            every = [(i - 1, j, k) for j in range(widths[i - 1]) for k in range(widths[i])]
            parents = [(i - 1, draw.randrange(widths[i - 1]), k) for k in range(widths[i])]
            spare = [edge for edge in every if edge not in parents]
            self.edges += parents + draw.sample(spare, draw.randint(0, min(3, len(spare))))

    def label(self, parameter: tuple[int, ...]) -> str:
        i, j, k = parameter[:3]
        of = self.categories[k] if len(parameter) == 4 else self.layers[i + 1][k]
        return f"{self.layers[i][j]}'s {of}"

    def truth(self) -> Truth | None:
        depth = len(self.layers)
        self.needs: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
        for i in reversed(range(depth - 1)):
            for j in range(len(self.layers[i])):
                below = [edge for edge in self.edges if edge[:2] == (i, j)]
                self.needs[i, j, i + 1, 0] = [*below]
                for c in range(i + 2, depth):
                    self.needs[i, j, c, 0] = [
                        part for edge in below for part in (edge, (i + 1, edge[2], c, 0))
                    ]
        labels = [self.label(p) for p in (*self.edges, *self.needs)]
        if len(set(labels)) < len(labels):
            return None
        self.sentences: dict[tuple[int, ...], str] = {}
        self.trees: dict[tuple[int, ...], tuple] = {}
        known: list[tuple[int, ...]] = []
        rest = [*self.edges]
        self.draw.shuffle(rest)
        for edge in rest:
            known += [p for p, of in self.needs.items() if p not in known and set(of) <= {*known}]
            self._state(edge, known)
            known.append(edge)
        known += [p for p, of in self.needs.items() if p not in known and set(of) <= {*known}]
        known += [p for p, of in self.needs.items() if p not in known and set(of) <= {*known}]
        return self._write(known)

    def _state(self, edge: tuple[int, ...], known: list[tuple[int, ...]]) -> None:
        """Write the sentence and the tree of an edge: ("+", parts), a parameter, or a number."""
        operands = self.draw.sample(known, min(len(known), self.draw.choice((0, 1, 1, 2, 2, 3))))
        each = [f"each {self.label(p)}" for p in operands]
        sign = self.draw.choice("+-") if len(each) == 2 else "+"
        tree: object = (sign, tuple(operands)) if len(each) > 1 else (operands or [None])[0]
        what = ", ".join(each[:-1]) + " and " + each[-1] if len(each) > 1 else "".join(each)
        if len(each) > 1:
            what = f"the {'difference' if sign == '-' else 'sum'} of {what}"
        if not each or self.draw.random() < 0.5:
            constant = self.draw.randrange(1, self.modulus)
            joint = self.draw.choice(("more than", "times as much as"))
            what = f"{constant} {joint} {what}" if each else str(constant)
            both = "+" if joint == "more than" else "*"
            tree = (both, (constant, tree)) if each else constant
        self.sentences[edge] = f"The number of each {self.label(edge)} equals {what}."
        self.trees[edge] = tree

    def tree(self, parameter: tuple[int, ...]) -> object:
        if parameter in self.trees:
            return self.trees[parameter]
        needs = self.needs[parameter]
        if parameter[2] == parameter[0] + 1:
            parts = [*needs]
            self.draw.shuffle(parts)
        else:
            pairs = zip(needs[::2], needs[1::2], strict=True)
            parts = [("*", pair) for pair in pairs]
        return ("+", tuple(parts)) if len(parts) > 1 else parts[0] if parts else 0

    def formula(self, tree: object) -> Formula:
        """Return a function of the values by label; `tree` is as in `_state`."""
        if isinstance(tree, int):
            return lambda values: tree
        if not isinstance(tree[0], str):
            label = self.label(tree)
            return lambda values: values[label]
        return combine(tree[0], [self.formula(part) for part in tree[1]])

    def _write(self, known: list[tuple[int, ...]]) -> Truth | None:
        query = self.draw.choice(known)
        trees = {p: self.tree(p) for p in known}
        needed, rest = set(), [query]
        while rest:
            parameter = rest.pop()
            needed.add(parameter)
            rest += [*_leaves(trees[parameter])]
        self.letters = random.Random(self.draw.random()).sample(string.ascii_letters, 52)
        self.letter: dict[tuple[int, ...], str] = {}
        self.value: dict[str, int] = {}
        steps = []
        for parameter in known:
            if parameter in needed:
                if len(self.letters) < 12:
                    return None
                letter = self.letters.pop()
                equations: list[str] = []
                self._equation(trees[parameter], letter, equations)
                *helpers, last = equations
                text = "; ".join([*helpers, f"so {last}"])
                steps.append(f"Define {self.label(parameter)} as {letter}; {text}.")
                self.letter[parameter] = letter
        i, j, k = query[:3]
        of = self.categories[k] if len(query) == 4 else self.layers[i + 1][k]
        sentences = [*self.sentences.values()]
        self.draw.shuffle(sentences)
        return Truth(
            question=" ".join([*sentences, f"How many {of} does {self.layers[i][j]} have?"]),
            solution=" ".join(steps),
            formulas={self.label(p): self.formula(tree) for p, tree in trees.items()},
            query=self.label(query),
            modulus=self.modulus,
        )

    def _equation(self, tree: object, letter: str, equations: list[str]) -> None:
        """Append the equations of a tree; each helper comes right before its first use."""
        if isinstance(tree, int):
            self.value[letter] = tree
            equations.append(f"{letter} = {tree}")
        elif not isinstance(tree[0], str):
            self.value[letter] = self.value[self.letter[tree]]
            equations.append(f"{letter} = {self.letter[tree]} = {self.value[letter]}")
        else:
            sign, parts = tree
            if len(parts) > 2:
                parts = ((sign, parts[:-1]), parts[-1])
            a, b = (self._term(part, equations) for part in parts)
            x, y = (self.value.get(t, 0) if t.isalpha() else int(t) for t in (a, b))
            self.value[letter] = OPERATIONS[sign](x, y) % self.modulus
            equations.append(f"{letter} = {a} {sign} {b} = {x} {sign} {y} = {self.value[letter]}")

    def _term(self, tree: object, equations: list[str]) -> str:
        if isinstance(tree, int):
            return str(tree)
        if not isinstance(tree[0], str):
            return self.letter[tree]
        letter = self.letters.pop()
        self._equation(tree, letter, equations)
        return letter


OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
}


def combine(sign: str, parts: list[Formula]) -> Formula:
    """Return the formula that joins others from the left."""

    def value(values: Mapping[str, int]) -> int:
        total, *rest = (part(values) for part in parts)
        for other in rest:
            total = OPERATIONS[sign](total, other)
        return total

    return value


def _leaves(tree: object) -> list[tuple[int, ...]]:
    if isinstance(tree, int):
        return []
    if not isinstance(tree[0], str):
        return [tree]
    return [leaf for part in tree[1] for leaf in _leaves(part)]


def judge(truth: Truth, solution: str) -> bool:
    """Return whether every step is right, by evaluating it twice: truly, and at a random point."""
    draw = random.Random(0)
    values: dict[str, int] = {}  # by label
    points: dict[str, int] = {}
    letters: dict[str, tuple[int, int]] = {}
    used: set[str] = set()
    try:
        assert solution.endswith(".") and solution.startswith("Define ")
        for step in re.split(r"\.\s+Define ", solution.removeprefix("Define ")[:-1]):
            head, *equations = step.split("; ")
            label, letter = head.rsplit(" as ", 1)
            assert label in truth.formulas and label not in values
            scope, helpers = dict(letters), []
            for number, equation in enumerate(equations, 1):
                last = number == len(equations)
                assert equation.startswith("so ") == last
                new, *parts = equation.removeprefix("so ").split(" = ")
                assert re.fullmatch("[A-Za-z]", new) and new not in used
                helpers = [name for name in helpers if name not in parts[0].split(" ")]
                scope[new] = _evaluate(parts, scope, truth.modulus)
                terms = parts[0].split(" ")
                assert len(terms) == 3 or (last and (len(parts) == 1 or terms[0] in letters))
                assert len(terms) == 1 or any(term in scope for term in terms)
                used.add(new)
                helpers.append(new)
            assert helpers == [letter]
            formula = truth.formulas[label]
            assert scope[letter][0] == formula(values) % truth.modulus
            assert scope[letter][1] == formula(points) % POINT
            values[label], points[label] = scope[letter][0], draw.randrange(POINT)
            letters[letter] = values[label], points[label]
        return label == truth.query
    except (AssertionError, ValueError, KeyError, IndexError):
        return False


def _evaluate(
    parts: list[str], scope: Mapping[str, tuple[int, int]], modulus: int
) -> tuple[int, int]:
    """Return the (value, value at the point) of an equation, after checks of its right sides."""
    *_, result = parts
    first = parts[0].split(" ")
    pairs = [scope[t] if t.isalpha() else (_number(t), _number(t)) for t in first[::2]]
    if len(parts) == 1:
        assert len(first) == 1 and _number(result) < modulus
        return pairs[0]
    if len(first) == 1:
        assert len(parts) == 2 and first[0] in scope and _number(result) == pairs[0][0]
        return pairs[0]
    (a, at_a), (b, at_b) = pairs
    operation = OPERATIONS[first[1]]
    shown, value = parts[1].split(" "), operation(a, b) % modulus
    assert len(parts) == len(first) == len(shown) == 3 and shown[1] == first[1]
    assert [_number(shown[0]), _number(shown[2])] == [a, b] and _number(result) == value
    return value, operation(at_a, at_b) % POINT


def _number(text: str) -> int:
    assert text.isascii() and text.isdigit() and str(int(text)) == text
    return int(text)
