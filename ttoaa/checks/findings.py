"""What a check has to say: one line for a person, the same as values for a program."""

import dataclasses
from collections.abc import Sequence
from typing import Any

SEVERITIES = ("error", "warning", "note")


@dataclasses.dataclass(frozen=True)
class Finding:
    """An error is a plan that must not be run, a warning one that a person must have looked at."""

    severity: str
    check: str
    message: str
    experiments: tuple[str, ...] = ()
    items: int = 0
    examples: Sequence[dict[str, Any]] = ()

    def line(self) -> str:
        return f"{self.severity:8} {self.check:10} {self.message}"
