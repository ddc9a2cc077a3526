"""What a tokenizer is trained on: a share of the training documents, drawn by text alone."""

import dataclasses
import itertools
import pathlib
import pickle
from collections.abc import Iterator

from ttoaa import workdir
from ttoaa.data.sources import Source, keyed_fraction
from ttoaa.data.survey import Counts, Group, read


@dataclasses.dataclass(frozen=True)
class TakeSample:
    """The task: leaves a group's share of the sample in a file; yields characters read."""

    source: Source
    groups: tuple[Group, ...]
    reserve_fraction: float
    share: float
    folder: pathlib.Path

    def __call__(self, index: int) -> Iterator[int]:
        documents = read(self.source, self.groups, index, 0)
        number = Counts.load(self.groups[index].path).documents_u.sum()
        taken = []
        for _, text, fraction in itertools.islice(documents, int(number)):
            train = fraction >= self.reserve_fraction
            if train and keyed_fraction("tokenizer", text) < self.share:
                taken.append(text)
            yield len(text)
        workdir.write_bytes(self._path(index), pickle.dumps(taken))  # may hold TokenIds

    def texts(self, index: int) -> list[str]:
        """What a group has of the sample, once it was read."""
        return pickle.loads(self._path(index).read_bytes())

    def _path(self, index: int) -> pathlib.Path:
        return self.folder / f"sample-{index:05d}.pickle"
