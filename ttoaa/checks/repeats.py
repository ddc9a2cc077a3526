"""Texts that more than one experiment has, word for word or nearly, and holdouts that leak.

The worst is a held-out item that enters training after all: it is the control of its statistic.
That experiments insert the same changes the dose of both. What one experiment inserts several times
is its own affair, and not told.
"""

from collections.abc import Iterator

import numpy as np

from ttoaa.checks.findings import Finding
from ttoaa.checks.meetings import Meetings, same_ngrams, same_texts
from ttoaa.checks.nearest import nearest
from ttoaa.checks.texts import Texts


def identical(texts: Texts, holdout: str, examples: int) -> Iterator[Finding]:
    """Word for word; `holdout` is the severity of one that is inserted."""
    met = same_texts(texts)
    held = texts.held_out[met.item]
    for pair in _by_experiments(texts, met.where(held)):
        name, other, count = _names(texts, pair)
        whose = "the experiment itself inserts" if name == other else f"{other} inserts"
        all_ = int((texts.held_out & (texts.experiment == texts.experiment[pair.item[0]])).sum())
        yield Finding(
            severity=holdout,
            check="holdout",
            message=f"{count:,} of {all_:,} held-out items of {name} are texts that {whose}, "
            f"word for word{_told(texts, pair, examples)}",
            experiments=tuple(dict.fromkeys((name, other))),
            items=count,
            examples=_examples(texts, pair, examples),
        )
    both = met.where(~held)
    for pair in _by_experiments(texts, both.where(texts.experiment[both.item] < both.other)):
        name, other, count = _names(texts, pair)
        yield Finding(
            severity="warning",
            check="identical",
            message=f"{count:,} items of {name} are texts that {other} inserts too, word for word"
            f"{_told(texts, pair, examples)}",
            experiments=(name, other),
            items=count,
            examples=_examples(texts, pair, examples),
        )


def similar(
    texts: Texts, n: int, threshold: float, holdout: str, examples: int
) -> Iterator[Finding]:
    """Items of which other experiments insert a share of `threshold` or more of all n-grams.

    Those that are the same word for word are left to `identical`, as are texts under n tokens.
    """
    met, total = same_ngrams(texts, n)
    near = met.where(met.common >= threshold * total[met.item])
    same = same_texts(texts)
    wide = len(texts.experiments)
    known = np.isin(near.item * wide + near.other, same.item * wide + same.other)
    near = near.where(~known)
    held = texts.held_out[near.item]
    for part, check, severity in ((held, "holdout", holdout), (~held, "similar", "warning")):
        for pair in _by_experiments(texts, near.where(part)):
            name, other, count = _names(texts, pair)
            own = name == other
            share = pair.common / total[pair.item]
            worst = pair.where(np.argsort(-share, kind="stable")[:examples])
            whole = worst.common / total[worst.item]
            example, single = nearest(texts, worst.item, worst.other, n)
            what = "held-out items" if check == "holdout" else "items"
            yield Finding(
                # A holdout may be made by the same rule as what is inserted, and share its phrases.
                severity="note" if own else severity,
                check=check,
                message=f"{count:,} {what} of {name} stand to {threshold:.0%} or more of their "
                f"{n}-grams in texts that {'it inserts itself' if own else f'{other} inserts'}: "
                f"{texts.name(int(worst.item[0]))} to {whole[0]:.0%}, of which "
                f"{single[0]:.0%} in {texts.name(int(example[0]))}",
                experiments=tuple(dict.fromkeys((name, other))),
                items=count,
                examples=[
                    {
                        "item": texts.name(i),
                        "share": round(float(w), 4),
                        "nearest": texts.name(e),
                        "share_in_nearest": round(float(s), 4),
                    }
                    for i, w, e, s in zip(
                        worst.item.tolist(), whole, example.tolist(), single, strict=True
                    )
                ],
            )


def _by_experiments(texts: Texts, met: Meetings) -> Iterator[Meetings]:
    """Those of one experiment that meet one other, pair after pair."""
    pair = texts.experiment[met.item] * len(texts.experiments) + met.other
    order = np.argsort(pair, kind="stable")
    borders = np.flatnonzero(np.diff(pair[order])) + 1
    yield from (met.where(part) for part in np.split(order, borders) if len(part))


def _names(texts: Texts, pair: Meetings) -> tuple[str, str, int]:
    names = texts.experiments
    return names[texts.experiment[pair.item[0]]], names[pair.other[0]], len(pair)


def _examples(texts: Texts, pair: Meetings, examples: int) -> list[dict[str, str]]:
    few = zip(pair.item[:examples].tolist(), pair.example[:examples].tolist(), strict=True)
    return [{"item": texts.name(item), "same_as": texts.name(example)} for item, example in few]


def _told(texts: Texts, pair: Meetings, examples: int) -> str:
    few = [f"{e['item']} = {e['same_as']}" for e in _examples(texts, pair, min(examples, 2))]
    return f": {', '.join(few)}" if few else ""
