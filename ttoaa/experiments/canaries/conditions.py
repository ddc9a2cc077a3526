"""Kinds of canary, such as 'rare-8', and conditions: a kind and its repetitions."""

import dataclasses
from collections.abc import Iterator, Sequence

PLAIN = "plain"
RARE = "rare"
UNLIKELY = "unlikely"
RANDOM = "random"


@dataclasses.dataclass(frozen=True)
class Kind:
    """The kind of suffix that turns a host into a canary."""

    name: str
    """'plain', or the type of the suffix and its tokens, as in 'rare-8'."""

    @property
    def type(self) -> str:
        return self.name.partition("-")[0]

    @property
    def tokens(self) -> int:
        """The number of tokens of its suffix."""
        return 0 if self.type == PLAIN else int(self.name.partition("-")[2])

    @property
    def valid(self) -> bool:
        kind, _, number = self.name.partition("-")
        if kind not in (RARE, UNLIKELY, RANDOM):
            return self.name == PLAIN
        return number.isdecimal() and int(number) >= 1


@dataclasses.dataclass(frozen=True)
class Condition:
    """Members of one kind with one number of repetitions, or non-members of one kind."""

    kind: Kind
    repetitions: int
    number: int
    """Canaries of the condition."""
    of: int = 0
    """The repetitions of the members that share this condition's rare token; 0: all of its kind."""

    @property
    def name(self) -> str:
        return f"{self.kind.name}-{self.repetitions}x" + self._of * (not self.repetitions)

    @property
    def matched(self) -> str:
        """The name of the condition of its matched non-members."""
        return f"{self.kind.name}-0x{self._of}"

    @property
    def _of(self) -> str:
        return f"-of-{self.of}x" if self.of else ""


def list_conditions(
    kinds: Sequence[str],
    repetitions: Sequence[int],
    members: Sequence[int],
    nonmembers: int,
    own_rare_tokens: bool,
) -> Iterator[Condition]:
    """Yield the conditions of each kind, non-members first.

    `members` are those of each number of repetitions. With `own_rare_tokens`, each number of
    repetitions of a rare kind has its own token, and therefore its own non-members.
    """
    for kind in map(Kind, kinds):
        own = own_rare_tokens and kind.type == RARE
        for of in repetitions if own else (0,):
            yield Condition(kind, 0, nonmembers, of)
        for r, number in zip(repetitions, members, strict=True):
            yield Condition(kind, r, number, r if own else 0)
