"""The published dependence matrix (paper, Figure 4): OLMo-2-1B at step 100,000, 100 steps a burst.

It has one burst of each kind and no intervals; the baseline appears to be the checkpoint itself.
Only effects on the own outcome are listed; all others are at most 1.1 in size.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """Effects on an experiment's own outcome, in the unit of the paper's Table 8."""

    outcome: str
    alone: float
    together: float


FIGURE_4 = {
    "Acquisition": Published("accuracy, points", 13.0, 11.9),
    "Reasoning": Published("accuracy at one operation, points", 45.4, 41.3),
    "Contamination": Published("accuracy, points", 10.7, 11.1),
    "Canaries": Published("cross-entropy, nats", 2.7, 2.7),
    "GaussianWatermark": Published("mean statistic", 7.3, 1.6),
    "Poisoning": Published("leak rate, points", 0.3, 0.1),
    "Forgetting": Published("cross-entropy, nats", 0.2, 0.2),
    "IidReplacements": Published("cross-entropy, nats", 0.2, 0.2),
    "MuseNews": Published("cross-entropy, nats", 0.5, 0.5),
}
"""By the class of our experiment that replicates the paper's."""
