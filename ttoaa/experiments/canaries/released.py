"""The released benchmark of matched members and non-members, inserted or only scored."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import gin
import numpy as np
import pandas as pd

from ttoaa.benchmarks.question import check_paths, read_records
from ttoaa.config_fields import Name, Paths, config_class
from ttoaa.experiments.base import Experiment, Scorer, World
from ttoaa.experiments.canaries.contrasts import ABOVE, against_nonmembers, pair_scores
from ttoaa.experiments.canaries.experiment import SUFFIX, Canaries
from ttoaa.planning.items import Item
from ttoaa.planning.placement import Placement, Uniform
from ttoaa.scoring.attacks import LOSS_ATTACK
from ttoaa.scoring.membership import AUC, TPR
from ttoaa.scoring.requests import sum_log_probs
from ttoaa.statistics.bootstrap import Estimate, paired_estimates

NONMEMBERS = "-nonmembers"
_COLUMNS = (
    *("condition", "membership", "suffix_type", "suffix_length", "duplication", "input_ids"),
)
_MEMBERSHIP = {1: True, "member": True, 0: False, "nonmember": False, "non-member": False}
"""True and False are equal to 1 and 0."""


@gin.configurable
@config_class
class ReleasedCanaries(Experiment):
    """Separate the members and non-members of a released file of canaries by log-likelihood.

    A row of the files is one text: its condition, whether it is a member, the type and length of
    its suffix, how often it was duplicated, and its token ids. Members and non-members of one
    condition are compared. The report's conditions are those of the file; non-members end in
    '-nonmembers'. Outcomes are 'log_likelihood', 'log_likelihood_above_nonmembers', 'auc' and, from
    500 non-members on, 'tpr_at_1pct_fpr'; and the same of the suffix given the text before it
    ('log_likelihood_suffix', 'auc_suffix', …). No placebo is declared: which texts a model was
    trained on is the file's statement.
    """

    paths: Paths
    """JSON lines (.jsonl, .jsonl.gz) or Parquet (.parquet), read in order."""
    columns: Mapping[str, Name] = dataclasses.field(default_factory=dict)
    """The files' names of columns, where they are not condition, membership, suffix_type,
    suffix_length, duplication and input_ids."""
    insert: bool = True
    """Insert each member as often as it was duplicated. False: insert nothing, and score a model
    that was trained on the benchmark elsewhere."""
    placement: Placement = dataclasses.field(default_factory=Uniform)

    prior = Canaries.prior
    labels = Canaries.labels
    signs: ClassVar[Mapping[str, int]] = {
        outcome: 1
        for end in ("", SUFFIX)
        for outcome in (LOSS_ATTACK + end, LOSS_ATTACK + end + ABOVE, AUC + end, TPR + end)
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := sorted(set(self.columns) - set(_COLUMNS)):
            raise ValueError(
                f"{self.name}: columns holds {unknown[0]!r}, which is not among {list(_COLUMNS)}"
            )

    def intervene(self, world: World) -> Iterator[Item]:
        eos = world.tokenizer.eos_id
        check_paths(self.paths, self.name)
        records = itertools.chain.from_iterable(map(read_records, self.paths))
        for number, (place, record) in enumerate(records):
            found = self._parse(place, record)
            ids = found["input_ids"]
            first, last = ids[:1] == eos, ids[-1:] == eos
            text = ids[int(first.all()) : len(ids) - int(last.all())]
            if not 0 <= found["suffix_length"] < len(text):
                raise ValueError(
                    f"{place}: a suffix of {found['suffix_length']} tokens does not fit a text of "
                    f"{len(text)} with a host"
                )
            member = found["membership"]
            yield Item(
                id=str(number),
                condition=found["condition"] + NONMEMBERS * (not member),
                repetitions=found["duplication"] if member and self.insert else 0,
                tokens=world.document(text, f"{place}: the text"),
                placement=self.placement,
                text=world.tokenizer.decode(text),
                fields={
                    "suffix_type": found["suffix_type"],
                    "suffix_length": found["suffix_length"],
                    "text_tokens": len(text),
                },
            )

    def _parse(self, place: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return the values by our names of columns; ValueError for a missing or invalid one."""
        named = {name: self.columns.get(name, name) for name in _COLUMNS}
        if missing := [theirs for theirs in named.values() if theirs not in record]:
            raise ValueError(f"{place} has no column {missing[0]!r}: set {self.name}'s columns")
        found = {name: record[theirs] for name, theirs in named.items()}
        try:
            return {
                "condition": str(found["condition"]),
                "membership": _MEMBERSHIP[found["membership"]],
                "suffix_type": str(found["suffix_type"]),
                "suffix_length": int(found["suffix_length"] or 0),
                "duplication": int(found["duplication"]),
                "input_ids": np.asarray(found["input_ids"], np.int32),
            }
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{place} is not a row of the benchmark: membership is 0, 1, 'member' or "
                f"'nonmember', lengths and ids are whole numbers: {error!r}"
            ) from error

    def outcome(self, model: Scorer) -> pd.DataFrame:
        """Score every text, and its suffix if it has one, given an EOS."""
        items, eos = model.items, [model.tokenizer.eos_id]
        texts = []
        for tokens, length in zip(items["tokens"], items["text_tokens"], strict=True):
            text = np.asarray(tokens, np.int32)[-1 - length : -1]
            texts.append((np.concatenate([eos, text]).astype(np.int32), 1))
        log_probs = model.log_likelihood(texts)
        whole = sum_log_probs(log_probs)
        suffix = sum_log_probs(
            each[len(each) - n :] for each, n in zip(log_probs, items["suffix_length"], strict=True)
        )
        columns = items[["id", "condition"]].rename(columns={"id": "item"})
        suffixed = items["suffix_length"].to_numpy() > 0
        tables = [
            columns.assign(outcome=LOSS_ATTACK, value=whole),
            columns.assign(outcome=LOSS_ATTACK + SUFFIX, value=suffix)[suffixed],
        ]
        return pd.concat(tables, ignore_index=True)

    def estimates(self, run: pd.DataFrame, control: pd.DataFrame) -> list[Estimate]:
        found = paired_estimates(run, control, self.sign)
        scores = pair_scores(run.assign(group=run["item"]), control)
        for (outcome, condition), members in scores.items():
            nonmembers = scores.get((outcome, condition + NONMEMBERS))
            if nonmembers is None:  # non-members themselves, or members without any
                continue
            end = outcome.removeprefix(LOSS_ATTACK)
            found += against_nonmembers(members, nonmembers, outcome, condition, end, self.sign)
        return found

    def figure(self, estimates: pd.DataFrame, axes: Any) -> None:
        """Draw the AUC of each condition with its interval, a colour for each seed."""
        final = estimates[estimates["step"] == estimates["step"].max()]
        final = final[final["outcome"] == AUC]
        names = list(final["condition"].unique())
        for number, (seed, rows) in enumerate(final.groupby("seed", sort=False)):
            y = np.array([names.index(name) for name in rows["condition"]]) + 0.1 * number
            axes.plot(rows["value"], y, "o", color=f"C{number}", label=f"seed {seed}")
            axes.hlines(y, rows["ci_low"], rows["ci_high"], color=f"C{number}")
        axes.axvline(0.5, color="gray", linestyle="--", label="chance")
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("AUC of the loss attack")
        axes.legend()
