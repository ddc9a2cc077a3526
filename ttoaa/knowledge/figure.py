"""Value against target over training, and n below it: the paper's figures 2a and 9."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ttoaa.knowledge.outcomes import NEVER, TARGET, TEXTS, VALUE


def paint(arms: Sequence[str], estimates: pd.DataFrame, axes: Any) -> None:
    """An arm has a colour, a seed a line; dotted, the same facts in the control run."""
    final = estimates[estimates["step"] == estimates["step"].max()]
    split = final["condition"].str.partition("@")
    final = final.assign(arm=split[0])[split[1] == "@"]
    final = final.assign(at=split[2][split[1] == "@"].astype(int)).sort_values("at")
    axes.set_axis_off()
    above, below = axes.inset_axes((0, 0.42, 1, 0.58)), axes.inset_axes((0, 0, 1, 0.34))
    goal = final[final["outcome"] == TARGET].drop_duplicates("at")
    goal = goal[goal["value"] > 0]
    above.plot(goal["at"], goal["value"], "--", color="gray", label="target")
    shown = [*arms, *([NEVER] if (final["arm"] == NEVER).any() else [])]
    for number, arm in enumerate(shown):
        color = f"C{number}"
        mine = final[final["arm"] == arm]
        for k, (_, rows) in enumerate(mine.groupby("seed", sort=False)):
            value, texts = (rows[rows["outcome"] == name] for name in (VALUE, TEXTS))
            told = dict(color=color, lw=1.2, alpha=1 if k == 0 else 0.5)
            above.plot(value["at"], value["value"], label=arm if k == 0 else None, **told)
            above.fill_between(value["at"], value["ci_low"], value["ci_high"], color=color,
                               alpha=0.12, linewidth=0)  # fmt: skip
            if arm != NEVER:
                first = number == k == 0
                label = "its facts in the control run" if first else None
                above.plot(value["at"], value["control_value"], ":", label=label, **told)
                below.step(texts["at"], texts["value"], where="post", **told)
    above.set_yscale("log")
    above.set_xticklabels([])
    above.set_ylabel("probability of the target")
    above.legend(fontsize="small", ncols=2)
    most = final.loc[final["outcome"] == TEXTS, "value"].max()
    below.set_yscale("symlog", linthresh=1)
    below.set_ylim(0, 1.5 * max(1, np.nan_to_num(most)))
    below.set_ylabel("texts an interval")
    below.set_xlabel("step")
