"""Published measurements of MFU, to set next to an estimate: dense models of up to 3B parameters.

FLOPs are counted as in `DecoderConfig.flops_per_token`, with causal attention counted half, unless
`how` says otherwise.
"""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Measured:
    """The MFU of one published run."""

    chip: str
    parameters: float
    """All of them, embeddings included."""
    mfu: float
    where: str
    """The hardware and the software."""
    how: str
    """How the figure follows from what the source states."""
    source: str


_MARIN = "github.com/marin-community/marin, experiments/speedrun/adamw_llama_scaling"

MEASURED = (
    Measured(
        "v5p",
        1.43e9,
        0.47,
        "v5p-32, marin",
        "24.0B tokens of 4,096 in 54,527 s on 16 chips; 52% if attention is counted in full",
        f"{_MARIN}/1_2b",
    ),
    Measured(
        "v5p",
        0.60e9,
        0.26,
        "v5p-32, marin",
        "10.4B tokens of 4,096 in 18,758 s on 16 chips",
        f"{_MARIN}/520m",
    ),
    Measured(
        "v5p",
        0.154e9,
        0.19,
        "v5p-32, marin",
        "2.6B tokens of 4,096 in 1,125 s on 16 chips",
        f"{_MARIN}/130m",
    ),
    Measured(
        "v6e",
        1.5e9,
        0.24,
        "v6e-8, marin",
        "the best of a sweep, by the authors' count of FLOPs",
        "github.com/marin-community/marin/issues/3784",
    ),
    Measured(
        "H100",
        1.34e9,
        0.43,
        "H100s, OLMo-core",
        "55,000 tokens of 4,096 per second and GPU",
        "pypi.org/project/ai2-olmo-core/1.6.1",
    ),
    Measured(
        "H100",
        1.2e9,
        0.40,
        "H100s, OLMo-core",
        "39 to 41% by the authors' count of FLOPs",
        "pypi.org/project/ai2-olmo-core/1.2.0",
    ),
    Measured(
        "H100",
        1.485e9,
        0.17,
        "8 H100, the paper",
        "209.7B tokens of 4,096 in 15 days",
        "arxiv.org/abs/2509.23383, B.1",
    ),
)

_COMPARABLE = 2.2
"""Largest ratio of parameters of models that count as comparable."""


def comparable(chip: str, parameters: float) -> list[Measured]:
    """Return the measurements on this chip of models of a similar size, highest MFU first."""
    near = math.log(_COMPARABLE)
    found = [
        each
        for each in MEASURED
        if each.chip == chip and abs(math.log(each.parameters / parameters)) <= near
    ]
    return sorted(found, key=lambda each: -each.mfu)
