"""Several sources as one: interleaved in exact proportions, or each at its own rate."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Annotated, ClassVar, Literal

import gin

from ttoaa.config_fields import Above, AtMost, NotEmpty, config_class
from ttoaa.data.sources.base import Source, all_documents, encode_document, keyed_fraction


@gin.configurable
@config_class
class Mixture:
    """Documents of several sources, interleaved so that every prefix follows the weights.

    The next document comes from the source furthest behind its weight, in characters or documents.
    A source is ahead by at most its longest document, and behind by at most its weight times the
    sum of the longest documents of all sources. Nothing is random. Since each choice depends on
    all earlier ones, one process reads the whole mixture; several can read a `Pool`.
    """

    sources: Annotated[Sequence[Source], NotEmpty()]
    weights: Sequence[Annotated[float, Above(0), AtMost(1e18)]]
    """Need not sum to 1."""
    by: Literal["characters", "documents"] = "characters"
    when_one_ends: Literal["stop", "go on", "repeat"] = "stop"
    """'stop': the weights hold for everything read. 'go on': read the other sources to their end.
    'repeat': read the source again, until each has been read at least once."""

    drawn: ClassVar[tuple["Drawn", ...]] = ()
    """How much each source gave, after the mixture was read in this process."""

    def __post_init__(self) -> None:
        _check_pairs("Mixture", "weights", self.sources, self.weights)

    @property
    def description(self) -> str:
        pairs = zip(self.weights, self.sources, strict=True)
        return f"mixture, by {self.by}, of " + "; ".join(
            f"{w:g} × {s.description}" for w, s in pairs
        )

    def units(self) -> Sequence[str]:
        return ("mixture",)

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        del unit
        reading = [all_documents(source) for source in self.sources]
        drawn = [Drawn(source.description) for source in self.sources]
        live = list(range(len(reading)))
        unread = set(live)
        while live:
            chosen = min(live, key=lambda k: (self._size(drawn[k]) / self.weights[k], k))
            document = next(reading[chosen], None)
            if document is not None:
                drawn[chosen] = drawn[chosen].plus(document[1])
                yield document
                continue
            unread.discard(chosen)
            if self.when_one_ends == "stop" or not unread:
                break
            if self.when_one_ends == "go on":
                live.remove(chosen)
            elif drawn[chosen].documents == 0:
                raise ValueError(f"{drawn[chosen].source} has no documents to repeat")
            else:
                reading[chosen] = all_documents(self.sources[chosen])
                drawn[chosen] = dataclasses.replace(drawn[chosen], passes=drawn[chosen].passes + 1)
        object.__setattr__(self, "drawn", tuple(drawn))

    def _size(self, drawn: "Drawn") -> int:
        return drawn.characters if self.by == "characters" else drawn.documents


@dataclasses.dataclass(frozen=True)
class Drawn:
    """How much a source gave to a mixture."""

    source: str
    documents: int = 0
    characters: int = 0
    passes: int = 1
    """Including the current one."""

    def __str__(self) -> str:
        times = "" if self.passes == 1 else f", read {self.passes} times"
        return (
            f"{self.characters:,} characters of {self.documents:,} documents of "
            f"{self.source}{times}"
        )

    def plus(self, text: str) -> "Drawn":
        return dataclasses.replace(
            self, documents=self.documents + 1, characters=self.characters + len(text)
        )


@gin.configurable
@config_class
class Pool:
    """All of several sources, one after the other, with documents repeated at a source's rate.

    A rate of 0.3 keeps three documents of ten, chosen by a hash of their text; 2.3 repeats all
    twice and three of ten once more. The units are those of the sources, so several processes can
    read it. Training shuffles the corpus, so the order of the sources has no effect on it.
    """

    sources: Annotated[Sequence[Source], NotEmpty()]
    rates: Sequence[Annotated[float, Above(0), AtMost(1e4)]]

    def __post_init__(self) -> None:
        _check_pairs("Pool", "rates", self.sources, self.rates)

    @property
    def description(self) -> str:
        pairs = zip(self.rates, self.sources, strict=True)
        return "pool of " + "; ".join(f"{rate:g} × {s.description}" for rate, s in pairs)

    def units(self) -> Sequence[str]:
        return [f"{k}:{unit}" for k, source in enumerate(self.sources) for unit in source.units()]

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        number, inner = unit.split(":", 1)
        rate = self.rates[int(number)]
        for name, text in self.sources[int(number)].documents(inner):
            encode_document(name, text)  # names a document that cannot be hashed
            for _ in range(int(rate) + (keyed_fraction("pool", text) < rate % 1)):
                yield name, text


def _check_pairs(
    kind: str, field: str, sources: Sequence[Source], numbers: Sequence[float]
) -> None:
    if len(sources) != len(numbers):
        raise ValueError(
            f"{kind}.{field} must have one number for each source: there are {len(sources)} "
            f"sources and {len(numbers)} {field}"
        )
