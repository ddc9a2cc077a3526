"""The flags that all commands take. Quick to import: no JAX, no gin."""

from collections.abc import Sequence

from absl import flags

from ttoaa import bucket
from ttoaa.workdir import Workdir, remove_leftovers

GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "config files of the study; later files override earlier ones"
)
GIN_BINDINGS = flags.DEFINE_multi_string(
    "gin_bindings", [], "single gin bindings, which override the files"
)
_WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the study, or gs://BUCKET/FOLDER", required=True
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "seed of initialisation, training order, and experiments", 0
)


def workdir_from_flags() -> Workdir:
    """Return the study's folder, after removing what killed processes left unfinished in it.

    That of a study in a bucket is its copy on this machine, up to date.
    """
    workdir = Workdir(bucket.expand(_WORKDIR.value).resolve(), _SEED.value)
    remove_leftovers(workdir.root)
    return workdir


def check_study() -> None:
    """Raise ValueError, before any slow import, if there is no config to load."""
    workdir = workdir_from_flags()
    if not (GIN_FILE.value or workdir.config.exists()):
        raise ValueError(f"{workdir.root} holds no study yet: name its config with --gin_file")


def optional(name: str, alone: str, help_: str) -> "flags.Flag[str]":
    """Define a flag that means `alone` if it is given without a value; a value needs '='."""
    serializer = flags.ArgumentSerializer[str]()
    return flags.Flag(_Optional(alone), serializer, name, None, help_, boolean=True)


class _Optional(flags.ArgumentParser[str]):
    """Parse the value; absl passes 'true' for a flag without one."""

    def __init__(self, alone: str) -> None:
        super().__init__()
        self._alone = alone

    def parse(self, argument: str) -> str:
        return {"true": self._alone, "false": ""}.get(argument, argument)


def parse_integers(flag: str, values: Sequence[str]) -> list[int]:
    """Parse the values of a list flag; ValueError, naming it, for one that is no whole number."""
    wrong = [value for value in values if not value.strip().isdecimal()]
    if wrong:
        raise ValueError(f"--{flag} takes whole numbers, not {wrong[0]!r}")
    return [int(value) for value in values]
