"""Chips by the names that clouds give them, and how many of them a machine or a slice has."""

import dataclasses
import math
import re

from ttoaa.accelerators import PEAK_FLOPS


@dataclasses.dataclass(frozen=True)
class ChipType:
    """One chip: a whole TPU7x, which is two devices to JAX."""

    name: str
    peak_flops: float
    """Dense bfloat16 FLOP/s."""
    memory_gib: float
    """TPU v4 to v6e: what a program can use; others: the size on the data sheet."""
    devices: int = 1
    """What JAX counts as devices."""


CHIP_TYPES = {
    chip.name: chip
    for chip in (
        ChipType("v4", PEAK_FLOPS["TPU v4"], 30.75),
        ChipType("v5e", PEAK_FLOPS["TPU v5e"], 15.75),
        ChipType("v5p", PEAK_FLOPS["TPU v5p"], 95.74),
        ChipType("v6e", PEAK_FLOPS["TPU v6e"], 31.25),
        ChipType("TPU7x", 2 * PEAK_FLOPS["TPU7x"], 192, 2),
        ChipType("A100", PEAK_FLOPS["NVIDIA A100-SXM4-80GB"], 80),
        ChipType("H100", PEAK_FLOPS["NVIDIA H100 80GB HBM3"], 80),
        ChipType("H200", PEAK_FLOPS["NVIDIA H200"], 141),
        ChipType("B200", PEAK_FLOPS["NVIDIA B200"], 180),
    )
}

# Names of slices of the Cloud TPU API: chip, TensorCores per chip, axes of the torus. The number
# in a name counts TensorCores for v4 and v5p, and chips for v5e and v6e.
_SLICES = {
    "v4": ("v4", 2, 3),
    "v5p": ("v5p", 2, 3),
    "v5litepod": ("v5e", 1, 2),
    "v6e": ("v6e", 1, 2),
}


@dataclasses.dataclass(frozen=True)
class Hardware:
    """Chips that train one run together."""

    name: str
    """As it was given."""
    chip: ChipType
    chips: int
    topology: str | None = None
    """The name by which libtpu knows a slice; None for other hardware."""

    @property
    def devices(self) -> int:
        return self.chips * self.chip.devices


def parse_hardware(text: str) -> Hardware:
    """Parse a slice 'v5p-128', a topology of libtpu 'v5p:4x4x4', or a number of chips '8xH100'.

    Raises:
        ValueError: none of these, or no such slice.
    """
    if match := re.fullmatch(r"(v4|v5p|v5litepod|v6e)-(\d+)", text):
        name, cores, axes = _SLICES[match[1]]
        chips, rest = divmod(int(match[2]), cores)
        if rest or chips < 1 or chips & (chips - 1):
            raise ValueError(f"--hardware={text} is no slice: its chips are a power of two")
        return Hardware(text, CHIP_TYPES[name], chips, f"{name}:{_torus(chips, axes)}")
    known = {name.lower(): chip for name, chip in CHIP_TYPES.items()}
    match = re.fullmatch(r"(\w+):(\d+(?:x\d+)+)", text)
    if match and (chip := known.get(match[1].lower())):
        chips = math.prod(map(int, match[2].split("x")))
        if chips:
            return Hardware(text, chip, chips, text)
    match = re.fullmatch(r"(\d+)[x×](\w+)", text)
    if match and int(match[1]) and (chip := known.get(match[2].lower())):
        return Hardware(text, chip, int(match[1]))
    raise ValueError(
        f"--hardware={text} is unknown: name a slice (v5p-128), a topology (v5p:4x4x4) or chips "
        f"(8xH100), of {', '.join(CHIP_TYPES)}"
    )


def _torus(chips: int, axes: int) -> str:
    """Return the shape of a slice of 2^k chips: 64 in three axes are 4x4x4, 32 are 2x4x4."""
    power = chips.bit_length() - 1
    sizes = [2 ** ((power + axis) // axes) for axis in range(axes)]
    return "x".join(map(str, sorted(sizes, key=lambda size: (size == 1, size))))
