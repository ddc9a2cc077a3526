"""How much likelier a model finds the right number than other numbers in its place.

The scored number is the result of a solution's last step, given a right solution up to it.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator, Sequence

import numpy as np

from ttoaa.experiments.scorer import Scorer
from ttoaa.scoring.requests import encode_request, sum_log_probs
from ttoaa.statistics.bootstrap import keyed_rng

RESULT, COPY = "result_log_likelihood", "copy_log_likelihood"
RESIDUES, STATED, NEW = "margin_residues", "margin_stated", "margin_new"
PLACEBO = "margin_wrong_residue"
NUMBER = re.compile(r"\b[0-9]+\b")
_ALONE = re.compile(r" equals ([0-9]+)\.")
_TEXT = re.compile(r"(?s)(?P<context>.*Solution:(?P<steps>.*) = )[0-9]+(?P<end>\.\nAnswer: )[0-9]+")


@dataclasses.dataclass(frozen=True)
class Result:
    """The scored number of one problem, and the numbers that it is compared with."""

    context: str
    """The solved problem up to the number."""
    end: str
    """What follows the number, up to its copy."""
    answer: int
    modulus: int
    alone: frozenset[int]
    """Numbers but 0 that occur once in the problem, in a sentence that states nothing else, and not
    in the solution up to the result."""
    stated: frozenset[int]
    """Numbers that the problem states."""
    written: frozenset[int]
    """Numbers in the problem or in the solution up to the result."""
    computed: bool
    """Whether the last step has an operation, rather than a constant or a copied parameter."""
    key: str

    @classmethod
    def parse(cls, text: str, question: str, answer: int, modulus: int) -> "Result":
        """Find the scored number in the text of a solved problem."""
        match = _TEXT.fullmatch(text)
        assert match is not None
        times = collections.Counter(map(int, NUMBER.findall(question)))
        stated = frozenset(times)
        shown = set(map(int, NUMBER.findall(match["steps"])))
        once = {n for n in map(int, _ALONE.findall(question)) if n and times[n] == 1}
        last = match["steps"].rpartition("so ")[2]
        return cls(
            context=match["context"],
            end=match["end"],
            answer=answer,
            modulus=modulus,
            alone=frozenset(once - shown),
            stated=stated,
            written=stated | shown,
            computed=any(f" {sign} " in last for sign in "+-*"),
            key=question,
        )

    def comparisons(self) -> dict[str, tuple[int, Sequence[int]]]:
        """Return (number, numbers it is compared with) of each margin that this problem has.

        `margin_stated` and `margin_new` leave out 0: a model that avoids it would pass, since
        most results of 0 are those of items that contain nothing. The placebo puts a wrong number,
        which the problem does not state, in the place of the right one. It is drawn by the key, so
        it does not depend on the model.
        """
        residues = range(self.modulus)
        wrong = [r for r in residues if r not in self.stated and r != self.answer]
        chosen = wrong[int(keyed_rng(PLACEBO, self.key).integers(len(wrong)))] if wrong else -1
        unwritten = [r for r in residues if r and r not in self.written]
        new = self.computed and self.answer in unwritten
        candidates: dict[str, tuple[int, Sequence[int]]] = {
            RESIDUES: (self.answer, residues),
            STATED: (self.answer, sorted(self.alone) if self.answer in self.alone else ()),
            NEW: (self.answer, unwritten if new else ()),
            PLACEBO: (chosen, wrong),
        }
        others = {
            name: (n, [r for r in among if r != n]) for name, (n, among) in candidates.items()
        }
        return {name: pair for name, pair in others.items() if pair[1]}


def score_results(model: Scorer, results: Sequence[Result]) -> Iterator[dict[str, float]]:
    """Yield the outcomes of each result, in nats; a margin that a problem does not have is absent.

    A number is scored together with the full stop after it, so that 1 is not a part of 15. That
    takes one request for each residue and one for the copy.
    """
    requests = []
    for result in results:
        texts = [(result.context, f"{r}{result.end[0]}") for r in range(result.modulus)]
        texts.append((f"{result.context}{result.answer}{result.end}", str(result.answer)))
        for context, continuation in texts:
            tokens, start = encode_request(model.tokenizer, context, continuation)
            requests.append((np.insert(tokens, 0, model.tokenizer.eos_id), start + 1))
    sums = np.array(sum_log_probs(model.log_likelihood(requests)))
    first = 0
    for result in results:
        of_residues, copy = sums[first : first + result.modulus], sums[first + result.modulus]
        first += result.modulus + 1
        values = {RESULT: float(of_residues[result.answer]), COPY: float(copy)}
        for outcome, (number, others) in result.comparisons().items():
            values[outcome] = float(of_residues[number] - of_residues[others].mean())
        yield values
