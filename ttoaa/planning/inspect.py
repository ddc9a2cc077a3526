"""Show steps, rows and items of a plan in a terminal, each edit in its experiment's colour.

Rows come from the audit's reference reader, which opens a plan of any size without reading it.
"""

import difflib
import itertools
import os
import sys

import numpy as np

from ttoaa.data.corpus import Corpus
from ttoaa.planning.audit.reference_reader import PlainReader
from ttoaa.planning.controller_log import SLOT_TEXTS_FOLDER
from ttoaa.planning.items import MARK, NOISE, RESERVE, SLOT, Noise
from ttoaa.planning.plan import ItemNames, Plan
from ttoaa.workdir import Workdir

_COLOURS = (32, 33, 34, 35, 36, 31, 92, 93, 94, 95, 96, 91)
_AROUND = 8  # tokens shown before and after an edit
_LONGEST = 200  # tokens shown of an edit, half of them from its end
_EXAMPLES = 3  # copies of an item shown with their text
_COMPARED = 10_000  # ids compared with an unknown name


def show(workdir: Workdir, what: str) -> str:
    """Answer step=K, row=P or item=ID; raises ValueError for one that does not exist."""
    if not (workdir.plan / "plan.json").exists():
        raise ValueError(f"{workdir.plan} holds no plan: run python -m ttoaa.plan first")
    return PlanView(workdir).answer(what)


class PlanView:
    """Looks up parts of a plan, whose hashes are not verified, since that takes longer."""

    def __init__(self, workdir: Workdir) -> None:
        self._corpus = Corpus.open(workdir.corpus, verify=False)
        self._plan = plan = Plan(workdir.plan)
        if self._corpus.fingerprint != plan.contents["corpus"]:
            raise ValueError(f"{plan.folder} was made for another corpus than {workdir.corpus}")
        run = workdir.run("run")
        decides = (run / SLOT_TEXTS_FOLDER / "index.json").exists()
        self._reader = PlainReader(workdir.corpus, workdir.plan, run if decides else None)
        self._decided = self._reader.decided if decides else 0
        self._arms = {arm["id"]: arm for arm in plan.arms}
        experiments = plan.contents["experiments"]
        self._colour = {e: _COLOURS[i % len(_COLOURS)] for i, e in enumerate(experiments)}
        self._batch, self._sequences = plan.geometry.batch, plan.geometry.sequences

    def answer(self, what: str) -> str:
        kind, _, value = what.partition("=")
        if kind == "item" and value:
            return self.item(value)
        most = {"step": self._sequences // self._batch, "row": self._sequences}.get(kind, 0)
        if not value.isdecimal() or int(value) >= most:
            raise ValueError(
                f"--show takes step=K with K from 0 to {self._sequences // self._batch - 1}, row=P "
                f"with P up to {self._sequences - 1}, or item=ID, not {what!r}"
            )
        return self.step(int(value)) if kind == "step" else self.row(int(value))

    def step(self, step: int) -> str:
        """Show every edit of a batch with the text around it."""
        edits = self._between(step * self._batch, (step + 1) * self._batch)
        covered = sum(edit["length"] for edit in edits if edit["kind"] != SLOT or edit["filled"])
        tokens = self._batch * self._plan.geometry.length
        lines = [f"step {step}: {len(edits)} edits, {covered / tokens:.1%} of {tokens} tokens"]
        return "\n".join([*lines, *(line for edit in edits for line in self._describe(edit))])

    def row(self, position: int) -> str:
        """Show a whole row of the training order, its edits in colour."""
        edits = self._between(position, position + 1)
        tokens, _ = self._reader.row(position)
        step, row = divmod(position, self._batch)
        lines = [f"row {position} of training: step {step} row {row}, {len(edits)} edits"]
        lines += [self._head(edit) for edit in edits]
        text, last = "", 0
        for edit in edits:
            first, end = edit["offset"], edit["offset"] + edit["length"]
            text += self._text(tokens[last:first])
            text += self._paint(edit, self._text(tokens[first:end]))
            last = end
        return "\n".join([*lines, text + self._text(tokens[last:])])

    def item(self, name: str) -> str:
        """Show where every copy of the items of this id went, the first few with their text."""
        counts = zip(self._plan.contents["experiments"], self._plan.contents["items"], strict=True)
        names = ItemNames(self._plan.folder, self._plan.contents["seed"], dict(counts))
        found = names.items(name)
        experiment, slash, rest = name.partition("/")
        if not found and slash and experiment in self._colour:
            found = names.items(rest, experiment)
        if not found:
            raise ValueError(f"the plan has no item {name!r}{self._suggest(name)}")
        lines = []
        for item in found:
            edits = [self._edit(row) for row in names.edits(item).tolist()]
            title = "/".join(names(np.array([item]))[0])
            if not edits:
                lines.append(_clean(f"{title}: held out, never inserted"))
                continue
            arm = self._arms[edits[0]["arm"]]["name"]
            size = edits[0]["length"]
            copies = "1 copy" if len(edits) == 1 else f"{len(edits)} copies"
            lines.append(_clean(f"{title} ({arm}): {copies} of {size} tokens"))
            for number, edit in enumerate(edits):
                lines += self._describe(edit) if number < _EXAMPLES else [self._head(edit)]
        return "\n".join(lines)

    def _between(self, first: int, last: int) -> list[dict[str, int]]:
        low, high = np.searchsorted(self._plan.columns["position"], [first, last]).tolist()
        return [self._edit(row) for row in range(low, high)]

    def _edit(self, row: int) -> dict[str, int]:
        edit = {name: int(column[row]) for name, column in self._plan.columns.items()}
        if edit["kind"] == SLOT:
            text = self._reader.filled.get((edit["item"], edit["repetition"]), [])
            edit |= {"filled": len(text), "length": len(text) or edit["length"]}
        return edit

    def _head(self, edit: dict[str, int]) -> str:
        step, row = divmod(edit["position"], self._batch)
        first, size = edit["offset"], edit["length"]
        experiment, name = self._plan.names(np.array([edit["item"]]))[0]
        kind = {
            RESERVE: f"  reserve window {edit['source']}",
            SLOT: f"  a controller's slot, {self._slot(edit)}",
            MARK: "  a mark, its tokens are those of the corpus",
            NOISE: f"  {self._noise(edit)}",
        }.get(edit["kind"], "")
        arm = self._arms[edit["arm"]]["name"] if edit["arm"] in self._arms else experiment
        where = f"tokens {first}-{first + size - 1}" if size else "whole"
        return _clean(
            f"step {step} row {row} {where}  {arm}  item {name}  "
            f"copy {edit['repetition'] + 1}{kind}"
        )

    def _slot(self, edit: dict[str, int]) -> str:
        if edit.get("filled"):
            return "filled"
        return "left empty" if edit["position"] // self._batch < self._decided else "still empty"

    def _noise(self, edit: dict[str, int]) -> str:
        if edit["kind"] != NOISE:
            return ""
        noise = Noise(**self._arms[edit["arm"]]["noise"])
        unit = " x the RMS of the embedding" if noise.relative else ""
        return f"noise of sigma {noise.sigma:g}{unit}, its tokens are kept"

    def _describe(self, edit: dict[str, int]) -> list[str]:
        tokens, _ = self._reader.row(edit["position"])
        first, last = edit["offset"], edit["offset"] + edit["length"]
        before, after = tokens[max(0, first - _AROUND) : first], tokens[last : last + _AROUND]
        cut = max(0, last - first - _LONGEST)
        text = self._text(tokens[first : first + _LONGEST // 2 if cut else last])
        if cut:
            text += f" [… {cut} tokens …] {self._text(tokens[last - _LONGEST // 2 : last])}"
        painted = self._paint(edit, text)
        return [self._head(edit), f"    {self._text(before)}{painted}{self._text(after)}"]

    def _text(self, tokens: list[int]) -> str:
        return _clean(self._corpus.tokenizer.decode(np.array(tokens, np.int32)))

    def _paint(self, edit: dict[str, int], text: str) -> str:
        experiment, _ = self._plan.names(np.array([edit["item"]]))[0]
        if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
            return f"\x1b[{self._colour[experiment]}m{text}\x1b[0m"
        return f"[[{text}]]"

    def _suggest(self, name: str) -> str:
        """Return the ids closest to an unknown name, among those that begin like it."""
        own = name.rpartition("/")[2]
        total = sum(self._plan.contents["items"])
        parts = (np.arange(i, min(i + _COMPARED, total)) for i in range(0, total, _COMPARED))
        pairs = itertools.chain.from_iterable(map(self._plan.names, parts))
        some = itertools.islice((p for p in pairs if p[1][:1] == own[:1] or own in p[1]), _COMPARED)
        known = {f"{e}/{i}" if "/" in name else i: f"{e}/{i}" for e, i in some}
        near = [known[key] for key in difflib.get_close_matches(name, known)]
        return f": did you mean {_clean(' or '.join(near))}?" if near else ""


def _clean(text: str) -> str:
    """Replace control characters, which must not reach the terminal."""
    return "".join(c if c.isprintable() else "⏎" if c == "\n" else "·" for c in text)
