"""A TFDS dataset, read by random access and without TensorFlow."""

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import gin

from ttoaa.config_fields import Name, config_class
from ttoaa.data import storage
from ttoaa.data.sources.base import needs_package, text_of

_UNIT = 10_000  # examples
_BATCH = 1000  # examples
INFO = "dataset_info.json"


@gin.configurable
@config_class
class TfdsDataset:
    """A split of a dataset that TFDS prepared as ArrayRecord or Parquet; one document per example.

    `folder` is that of one version, such as …/c4/en/3.1.0. Documents have the order of the files,
    which TFDS shuffled by a hash of the key when it prepared them.
    """

    folder: Name
    split: Name = "train"
    field: Name = "text"
    undecodable: Literal["error", "replace"] = "error"
    """For bytes that are not UTF-8: an error, or U+FFFD in their place."""

    @property
    def description(self) -> str:
        return f"{self.field!r} of {self.split} of {self.folder}"

    def units(self) -> Sequence[str]:
        total = len(self._open())
        return [f"{k}-{min(k + _UNIT, total)}" for k in range(0, total, _UNIT)]

    def documents(self, unit: str) -> Iterator[tuple[str, str]]:
        source, replace = self._open(), self.undecodable == "replace"
        first, stop = map(int, unit.split("-"))
        for start in range(first, stop, _BATCH):
            examples = source.__getitems__(range(start, min(start + _BATCH, stop)))
            for number, example in enumerate(examples, start):
                name = f"{self.folder}:{self.split}[{number}]"
                text = text_of(example[self.field], name, self.field, replace)
                if text.strip():
                    yield name, text

    def _open(self) -> Any:
        """Open the split as a sequence of dictionaries; ValueError, with what to do, otherwise."""
        if storage.is_url(self.folder):
            raise ValueError(f"{self.folder} is at a URL: copy the dataset to a local disk first")
        if not (pathlib.Path(self.folder) / INFO).is_file():
            raise ValueError(
                f"{self.folder} is not a TFDS dataset: it has no {INFO}; "
                f"name the folder of one version, such as …/1.0.0"
            )
        with needs_package(self.folder):
            import tensorflow_datasets as tfds
        try:
            builder = tfds.builder_from_directory(self.folder)
        except Exception as error:  # of many types, for a damaged file
            raise ValueError(f"{self.folder} is not a readable TFDS dataset: {error}") from error
        splits, fields = sorted(builder.info.splits), sorted(builder.info.features)
        if self.split not in splits:
            raise ValueError(f"{self.folder} has no split {self.split!r}: there are {splits}")
        if self.field not in fields:
            raise ValueError(f"{self.folder} has no {self.field!r}: there are {fields}")
        try:
            source = builder.as_data_source(self.split)
        except NotImplementedError as error:
            raise ValueError(
                f"{self.folder} is stored as {builder.info.file_format.value}, which has no random "
                f"access: prepare it with file_format='array_record'"
            ) from error
        stated = builder.info.splits[self.split].num_examples
        if len(source) != stated:  # TFDS 4.9.10 writes 400 of 1,000 examples to a Parquet file
            raise ValueError(
                f"{self.folder} holds {len(source):,} examples of {self.split}, its {INFO} says "
                f"{stated:,}: prepare it again, with file_format='array_record'"
            )
        return source
