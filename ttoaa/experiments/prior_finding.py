"""The published finding that an experiment replicates, for the replication table of the report."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PriorFinding:
    """One finding of earlier work, declared on the class as `Experiment.prior`."""

    work: str
    """Authors and year, such as 'Chang et al. 2024'."""
    finding: str
    """The finding in one sentence."""
    effect: str
    """The original effect with its unit, in words: '+19 points at 144 repetitions'."""
    source: str
    """Where the effect is published: an identifier with the figure, table or section."""
