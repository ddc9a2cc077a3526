"""The figure of verbatim memorization: shares completed, and likelihoods, over training."""

from typing import Any

import pandas as pd

from ttoaa.experiments.verbatim.contrasts import COMPLETED, LABELS, LIKELIHOOD


def draw(estimates: pd.DataFrame, axes: Any) -> None:
    """Draw both outcomes over training by kind of text: the run solid, the control run dashed.

    Panels extend below `axes`. The last step has the interval over texts. Seeds are averaged.
    """
    axes.set_axis_off()
    axes.get_figure().set_layout_engine("none")  # it does not see inset axes
    panels = ((LIKELIHOOD, "log-likelihood\n(nats per token)"), (COMPLETED, "share completed"))
    for number, (outcome, label) in enumerate(panels):
        panel = axes.inset_axes((0, 0.4 - 0.75 * number, 1, 0.6))
        rows = estimates[estimates["outcome"] == outcome]
        columns = ["value", "control_value", "ci_low", "ci_high"]
        kinds = rows.groupby("condition", sort=False)
        for line, (condition, of) in enumerate(kinds):
            mean = of.groupby("step")[columns].mean()
            color, name = f"C{line}", LABELS.condition(str(condition))
            panel.plot(mean.index, mean["value"], ".-", color=color, label=name)
            panel.plot(mean.index, mean["control_value"], ".--", color=color, alpha=0.6)
            last = mean.iloc[[-1]]
            reach = [last["value"] - last["ci_low"], last["ci_high"] - last["value"]]
            if of["seed"].nunique() == 1 and last["ci_low"].notna().all():
                panel.errorbar(last.index, last["value"], reach, color=color, capsize=2)
        panel.set_ylabel(label)
        if number:
            panel.set_xlabel("step (dashed: control run)")
            panel.legend()
