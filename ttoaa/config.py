"""Resolve flags and gin files to one `Study`, and check everything before work starts."""

import contextlib
import dataclasses
import importlib.util  # noqa: F401 (gin reaches for importlib.util without importing it)
import logging
import os
import pathlib
import re
import types
import typing
from collections.abc import Iterator, Sequence
from typing import Any

import gin
import jax
from absl import flags

from ttoaa import study_flags
from ttoaa.data.geometry import Geometry
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.prepare.pipeline import Prepare, is_begun
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import check_planned
from ttoaa.identity import check, identity
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.sharding import Layout
from ttoaa.planning.checks.findings import Checks
from ttoaa.planning.plan import Plan
from ttoaa.study_flags import GIN_BINDINGS, GIN_FILE, workdir_from_flags
from ttoaa.training.config import Training
from ttoaa.training.init_from import InitFrom
from ttoaa.workdir import Workdir, write_text

Bindings = dict[tuple[tuple[str, ...], str], str]
"""(scopes, 'Name.parameter' or macro name) to the value as gin writes it."""

flags.adopt_module_key_flags(study_flags)


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Study:
    """The config of a study, built by gin."""

    name: str
    prepare: Prepare | OlmoCorpus
    geometry: Geometry
    model: DecoderConfig
    training: Training
    experiments: Sequence[Experiment]
    execution: Execution = dataclasses.field(default_factory=Execution)
    layout: Layout = dataclasses.field(default_factory=Layout)
    init_from: InitFrom | None = None
    """The checkpoint that both runs start from, instead of random weights."""
    validation_sequences: int = 64
    checks: Checks = dataclasses.field(default_factory=Checks)
    """What planning reports about texts that experiments share."""

    def __post_init__(self) -> None:
        _check_types(self)
        if self.validation_sequences < 0:
            raise ValueError("Study.validation_sequences must not be negative")
        for experiment in self.experiments:
            if not isinstance(experiment, Experiment):
                raise ValueError(
                    f"Study.experiments holds {experiment!r}, which is not an experiment: "
                    "write @Name() with the parentheses"
                )
        object.__setattr__(self, "experiments", tuple(self.experiments))


def load_from_flags(more: Sequence[str] = ()) -> Study:
    """Load the study of --gin_file and --gin_bindings, or the one that the workdir remembers.

    `more` are bindings that a command makes from its flags. The resolved config is written to
    `<workdir>/config.gin`, so that later commands need only the workdir.
    """
    logging.getLogger("jax").setLevel(logging.WARNING)  # absl shows what libraries say at INFO
    workdir = workdir_from_flags()
    files = [pathlib.Path(name) for name in GIN_FILE.value]
    if not files:
        if not workdir.config.exists():
            raise ValueError(f"{workdir.root} holds no study yet: name its config with --gin_file")
        files = [workdir.config]
    bindings = [*GIN_BINDINGS.value, *more]
    study, resolved = load(files, bindings)
    if GIN_FILE.value or bindings:
        _refuse_other(workdir, study)
        write_text(workdir.config, resolved)
    return study


def _refuse_other(workdir: Workdir, study: Study) -> None:
    """Raise ValueError for settings other than those of the existing corpus, plans and runs."""
    prepared, trained = is_begun(workdir.corpus), bool(workdir.seeds())
    if not (prepared or trained) or not workdir.config.exists():
        return
    begun = load([workdir.config])[0]
    made, now = (identity(**_decided(each, trained)) for each in (begun, study))
    check(workdir.root, made, now, "continue with --workdir alone, or use another --workdir")
    for plan in (Workdir(workdir.root, seed).plan for seed in workdir.seeds()):
        if (plan / "plan.json").exists():
            check_planned(Plan(plan), study.experiments, complete=True)


def _decided(study: Study, trained: bool) -> dict[str, Any]:
    """What decided the corpus, and once a run has begun, what decides the runs."""
    corpus = {"Prepare": study.prepare}
    if not trained:
        return corpus
    return {
        **corpus,
        "Geometry": study.geometry,
        "DecoderConfig": study.model,
        "Training": study.training.numerics(),
        "InitFrom": study.init_from,
        "validation_sequences": study.validation_sequences,
    }


def only(study: Study, names: Sequence[str] | None) -> Study:
    """Return the study with only these experiments; with all of them if there are no names."""
    if not names:
        return study
    known = {experiment.name: experiment for experiment in study.experiments}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no experiment is named {unknown[0]!r}: the study has {sorted(known)}")
    return dataclasses.replace(study, experiments=[known[name] for name in names])


def cache_compilations(workdir: Workdir) -> None:
    """Keep XLA's compilations in the study's folder, or in $JAX_COMPILATION_CACHE_DIR if it is set.

    All processes of the study share them, and a restart compiles nothing again.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(workdir.compilation_cache)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def load(files: Sequence[pathlib.Path], bindings: Sequence[str] = ()) -> tuple[Study, str]:
    """Return (study, resolved config); raise ValueError for a binding that nothing uses."""
    try:
        return _load(files, bindings)
    finally:
        gin.clear_config()  # bindings must not apply to objects that are made by hand later


def _load(files: Sequence[pathlib.Path], bindings: Sequence[str]) -> tuple[Study, str]:
    excused: Bindings = {}
    if bindings:
        # A single binding may replace what other bindings configure (such as another source).
        # Bindings that are used without it are not errors.
        with contextlib.suppress(ValueError):
            _parse(files)
            _build()
        excused = _bindings(gin.operative_config_str())
    _parse(files, bindings)
    study = _build()
    used = _bindings(gin.operative_config_str())
    bound = _bindings(gin.config_str())
    _refuse_overruled(_bindings("\n".join(bindings)), bound, used)
    _refuse_unused(bound, used | excused)
    return study, gin.operative_config_str()


def _parse(files: Sequence[pathlib.Path], bindings: Sequence[str] = ()) -> None:
    gin.clear_config()
    _include_folders.clear()
    for file in files:
        if not file.is_file():
            raise ValueError(f"gin file {file} does not exist")
    with _one_line_errors(), _without_logging():
        for file in files:
            _search_includes(file.resolve())
        gin.parse_config_files_and_bindings(
            [str(file) for file in files], list(bindings), print_includes_and_imports=False
        )


_include_folders: list[pathlib.Path] = []  # in which the reader below finds included files


def _included(name: str) -> pathlib.Path:
    there = (folder / name for folder in _include_folders if (folder / name).is_file())
    return next(there, pathlib.Path(name))


# gin keeps for ever the search paths that it is given; those of this reader change with the study.
gin.config.register_file_reader(
    lambda name: _included(name).open(), lambda name: _included(name).is_file()
)


def _search_includes(file: pathlib.Path) -> None:
    """Let an `include` be relative to the folder of its file, or to that folder's parent."""
    for folder in (file.parent, file.parent.parent):
        _include_folders.append(folder)
        for name in re.findall(r"^include\s+['\"](.+)['\"]", file.read_text(), re.MULTILINE):
            if (folder / name).is_file():
                _search_includes(folder / name)


def _build() -> Study:
    with _one_line_errors():
        return gin.get_configurable("Study")()


@contextlib.contextmanager
def _one_line_errors() -> Iterator[None]:
    """Turn any error of gin, or of what the config imports, into one line."""
    try:
        yield
    except Exception as error:
        raise ValueError(f"bad config: {_one_line(error)}") from error


@contextlib.contextmanager
def _without_logging() -> Iterator[None]:
    """gin's own readers log an error for every include that they do not find."""
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)


def _one_line(error: BaseException) -> str:
    """The error and gin's note of the file and line, on one line."""
    return " ".join(str(error).split())[:400] or repr(error)


def _bindings(text: str) -> Bindings:
    """Every binding in a config string; a value may continue on indented lines."""
    found = re.findall(r"^([\w./-]+)\s*=(.*(?:\n[ \t]+.*)*)", text, re.MULTILINE)
    return {(tuple(n.split("/")[:-1]), n.split("/")[-1]): "".join(v.split()) for n, v in found}


def _refuse_unused(given: Bindings, used: Bindings) -> None:
    """Raise ValueError for a mistyped scope or an unused macro, which gin accepts silently."""
    for scopes, name in sorted(given):
        if not any(_same(name, n) and set(scopes) <= set(s) for s, n in used):
            full = "/".join((*scopes, name))
            raise ValueError(f"bad config: nothing uses the binding of {full}: is it mistyped?")


def _refuse_overruled(given: Bindings, bound: Bindings, used: Bindings) -> None:
    """Raise ValueError if a scoped binding, as saved configs have, overrides a given one."""
    _refuse_unused(given, used)
    for scopes, name in sorted(given):
        values = {v for (s, n), v in bound.items() if s == scopes and _same(name, n)}
        found = {
            (*s, n): v for (s, n), v in used.items() if _same(name, n) and set(scopes) <= set(s)
        }
        if not values & set(found.values()):
            ours, theirs = "/".join((*scopes, name)), sorted("/".join(where) for where in found)
            raise ValueError(f"bad config: {theirs[0]} overrules {ours}: bind that one instead")


def _same(name: str, other: str) -> bool:
    """Whether two names mean the same parameter; one of them may omit its module."""
    if not ("." in name and "." in other):
        return name == other  # a macro
    return f".{name}".endswith(f".{other}") or f".{other}".endswith(f".{name}")


def _check_types(value: Any) -> None:
    """Raise ValueError for a field that does not have its annotated type, recursively.

    gin checks no types, and accepts a reference without parentheses in place of an object.
    """
    hints = typing.get_type_hints(type(value))
    for field in dataclasses.fields(value):
        given, name = getattr(value, field.name), f"{type(value).__name__}.{field.name}"
        if callable(given) and not dataclasses.is_dataclass(type(given)):
            raise ValueError(f"{name} is {given!r}: write @Name() with the parentheses")
        hint = hints[field.name]
        if not _fits(given, hint):
            raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, not {given!r}")
        for part in given if isinstance(given, list | tuple) else [given]:
            if dataclasses.is_dataclass(part) and not isinstance(part, type):
                _check_types(part)


def _fits(given: Any, hint: Any) -> bool:
    """Whether the value fits: protocols accept any dataclass, generics are not checked."""
    if getattr(hint, "_is_protocol", False):
        return dataclasses.is_dataclass(given)
    union = typing.get_origin(hint) in (typing.Union, types.UnionType)
    parts = typing.get_args(hint) if union else (hint,)
    if not all(isinstance(part, type) for part in parts):
        return True
    return isinstance(given, (*parts, int) if float in parts else parts)
