"""The figure of verbatim memorization: shares completed, and likelihoods, over training."""

from typing import Any

import pandas as pd

from ttoaa.experiments.verbatim.contrasts import COMPLETED, LIKELIHOOD


def draw(estimates: pd.DataFrame, axes: Any) -> None:
    """Draw both outcomes over training by kind of text: the run solid, the control run dashed.

    The last step has the interval over texts. Several seeds are averaged.
    """
    axes.set_axis_off()
    panels = ((COMPLETED, "share completed"), (LIKELIHOOD, "log-likelihood (nats a token)"))
    for column, (outcome, label) in enumerate(panels):
        panel = axes.inset_axes((0.56 * column, 0, 0.44, 1))
        rows = estimates[estimates["outcome"] == outcome]
        columns = ["value", "control_value", "ci_low", "ci_high"]
        kinds = rows.groupby("condition", sort=False)
        for number, (condition, of) in enumerate(kinds):
            mean = of.groupby("step")[columns].mean()
            color = f"C{number}"
            panel.plot(mean.index, mean["value"], ".-", color=color, label=condition)
            panel.plot(mean.index, mean["control_value"], ".--", color=color, alpha=0.6)
            last = mean.iloc[[-1]]
            reach = [last["value"] - last["ci_low"], last["ci_high"] - last["value"]]
            if of["seed"].nunique() == 1 and last["ci_low"].notna().all():
                panel.errorbar(last.index, last["value"], reach, color=color, capsize=2)
        panel.set_xlabel("step (dashed: control run)")
        panel.set_ylabel(label)
        if not column:
            panel.legend(fontsize="small")
