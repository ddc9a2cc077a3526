"""The score above held-out articles against repetitions, a line for each form."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

_LABELS = {
    "whole": "whole article",
    "split": "same paragraphs",
    "resplit": "split differently in each copy",
}


def draw_gaps(
    estimates: pd.DataFrame, axes: Any, outcome: str, repetitions: Sequence[int], label: str
) -> None:
    """Draw the final differences of `outcome` in the conditions '<form>-<r>x' of all seeds."""
    final = estimates[estimates["step"] == estimates["step"].max()]
    final = final[final["outcome"] == outcome]
    counts = sorted(repetitions)
    for number, (form, name) in enumerate(_LABELS.items()):
        for k, (_, rows) in enumerate(final.groupby("seed", sort=False)):
            rows = rows.set_index("condition").loc[[f"{form}-{r}x" for r in counts]]
            x = np.arange(len(counts)) + 0.12 * (number - 1) + 0.03 * k
            axes.vlines(
                x, rows["difference_ci_low"], rows["difference_ci_high"], color=f"C{number}"
            )
            axes.plot(x, rows["difference"], "o-", color=f"C{number}", label=None if k else name)
    axes.axhline(0, color="gray", linestyle="--", label="held-out articles")
    axes.set_xticks(range(len(counts)), [f"{r:,}×" for r in counts])
    axes.set_xlabel("copies of an article in training")
    axes.set_ylabel(label)
    axes.legend()
