"""Resolve flags and gin files to one `Study`, and check everything before work starts."""

import dataclasses
import os
import re
from collections.abc import Sequence
from typing import Annotated, Any

import gin
import jax
from absl import flags

from ttoaa import study_flags
from ttoaa.author_errors import author_place
from ttoaa.config_fields import (
    CLASSES,
    Count,
    Distinct,
    FieldError,
    check_nested,
    config_class,
    similar,
)
from ttoaa.data.geometry import Geometry
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.prepare.pipeline import Prepare, is_begun
from ttoaa.experiments.base import Experiment
from ttoaa.experiments.context import check_planned
from ttoaa.gin_files import GinFiles, read_gin_files, sources_of, with_header
from ttoaa.identity import check, identity
from ttoaa.model.compute_config import Execution
from ttoaa.model.decoder import DecoderConfig
from ttoaa.model.sharding import Layout
from ttoaa.planning.checks.findings import Checks
from ttoaa.planning.plan import Plan
from ttoaa.runs import REFERENCE, check_run_name, parse_run
from ttoaa.statistics.run_equivalence import RunComparison
from ttoaa.study_flags import GIN_BINDINGS, GIN_FILE, workdir_from_flags
from ttoaa.training.checkpoint_io import committed_steps
from ttoaa.training.config import Training
from ttoaa.training.init_from import InitFrom
from ttoaa.training.reference import ReferenceCheckpoint, TrainedReference
from ttoaa.workdir import Workdir, write_text

Bindings = dict[tuple[tuple[str, ...], str], str]
"""(scopes, 'Name.parameter' or macro name) to the value as gin writes it."""

flags.adopt_module_key_flags(study_flags)


@gin.configurable
@config_class
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
    reference: TrainedReference | ReferenceCheckpoint | None = None
    """The model that experiments may ask before the plan is made, and that judges texts."""
    runs: Annotated[Sequence[str], Distinct()] = ()
    """Runs that `ttoaa study` trains in addition to the two standard ones, such as 'sham' (see
    `ttoaa.runs`)."""
    validation_sequences: Count = 64
    checks: Checks = dataclasses.field(default_factory=Checks)
    """What planning reports about texts that experiments share."""
    comparison: RunComparison = dataclasses.field(default_factory=RunComparison)
    """How the report compares runs with the control run."""

    def __post_init__(self) -> None:
        check_nested(self)
        object.__setattr__(self, "experiments", tuple(self.experiments))
        for name in self.runs:
            check_run_name(name)
            parse_run(name, [experiment.name for experiment in self.experiments])
        asking = [e.name for e in self.experiments if e.needs_reference]
        if asking and self.reference is None:
            raise ValueError(
                f"{asking[0]} asks a reference model, and the study has none: add "
                "Study.reference = @TrainedReference()"
            )
        if isinstance(self.reference, TrainedReference):
            self.reference.check(self.training, self.geometry.steps)
        self.training.check(self.geometry.steps)
        self.execution.check(self.geometry.length)

    @property
    def needs_reference(self) -> bool:
        """Whether some experiment asks the reference model."""
        return any(experiment.needs_reference for experiment in self.experiments)

    def of_reference(self) -> "Study":
        """Return the study without experiments whose only run is the reference model.

        Raises ValueError if the study trains none.
        """
        reference = self.reference
        if not isinstance(reference, TrainedReference):
            raise ValueError(
                "the study trains no reference model: set Study.reference = @TrainedReference()"
            )
        steps = reference.steps or self.geometry.steps
        return dataclasses.replace(
            self,
            experiments=(),
            runs=(),
            reference=None,
            init_from=None,
            geometry=dataclasses.replace(self.geometry, steps=steps),
            model=reference.model or self.model,
            training=reference.training(self.training),
        )

    def check_vocabulary(self, ids: int) -> None:
        """Raise ValueError if the model has too few embedding rows for the tokenizer."""
        if self.model.vocab_size < ids:
            raise ValueError(
                f"the tokenizer has {ids:,} ids, but the model has {self.model.vocab_size:,} "
                f"embedding rows: add --gin_bindings='DecoderConfig.vocab_size = {ids}'"
            )


def load_from_flags(more: Sequence[str] = ()) -> Study:
    """Load the study of --gin_file and --gin_bindings, or the one that the workdir remembers.

    `more` are bindings that a command makes from its flags. The resolved config is written to
    `<workdir>/config.gin`, so that later commands need only the workdir.
    """
    workdir = workdir_from_flags()
    bindings = [*GIN_BINDINGS.value, *more]
    if not GIN_FILE.value:
        if not workdir.config.exists():
            raise ValueError(f"{workdir.root} holds no study yet: name its config with --gin_file")
        sources_of(workdir.config)  # raises if it is damaged or was edited
    study, resolved = load(GIN_FILE.value or [workdir.config], bindings)
    if GIN_FILE.value or bindings:
        _refuse_other(workdir, study)
        write_text(workdir.config, resolved)
    return study


def _refuse_other(workdir: Workdir, study: Study) -> None:
    """Raise ValueError for settings other than those of the existing corpus, plans and runs."""
    try:
        sources_of(workdir.config)
    except (ValueError, FileNotFoundError):
        return  # no config to compare with; corpus, plans and runs check their own identity
    begun, _ = load([workdir.config])
    made, now = (identity(**_decided(each, workdir)) for each in (begun, study))
    check(workdir.root, made, now, "continue with --workdir alone, or use another --workdir")
    for plan in (Workdir(workdir.root, seed).plan for seed in workdir.seeds()):
        if (plan / "plan.json").exists():
            check_planned(Plan(plan), study.experiments, complete=True)


def _decided(study: Study, workdir: Workdir) -> dict[str, Any]:
    """Return the settings that the existing corpus, plans and runs depend on."""
    parts: dict[str, Any] = {}
    if is_begun(workdir.corpus):
        parts["Prepare"] = study.prepare
    if workdir.seeds():
        parts["Geometry"] = study.geometry
        parts["validation_sequences"] = study.validation_sequences
    if committed_steps(workdir.run(REFERENCE) / "checkpoints"):
        parts["reference"] = study.reference
        if isinstance(study.reference, TrainedReference):
            of = study.of_reference()
            numerics = of.training.numerics()
            made_of = {"Geometry": of.geometry, "DecoderConfig": of.model, "Training": numerics}
            parts["trained reference"] = made_of
    if workdir.trained_seeds():
        parts["DecoderConfig"] = study.model
        parts["Training"] = study.training.numerics()
        parts["InitFrom"] = study.init_from
        parts["RunComparison"] = study.comparison  # margins are fixed before results are seen
    return parts


def only(study: Study, names: Sequence[str] | None) -> Study:
    """Return the study with only these experiments; with all of them if there are no names.

    Its runs stay those of the whole study, so that evaluation still waits for them.
    """
    if not names:
        return study
    known = {experiment.name: experiment for experiment in study.experiments}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no experiment is named {unknown[0]!r}: the study has {sorted(known)}")
    chosen = dataclasses.replace(study, experiments=[known[name] for name in names], runs=())
    object.__setattr__(chosen, "runs", study.runs)  # they may name experiments that are not chosen
    return chosen


def cache_compilations(workdir: Workdir) -> None:
    """Keep XLA's compilations in the study's folder, or in $JAX_COMPILATION_CACHE_DIR if it is set.

    All processes of the study share them, and a restart compiles nothing again.
    """
    folder = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(workdir.compilation_cache)
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def load(
    files: Sequence[str | os.PathLike[str]], bindings: Sequence[str] = ()
) -> tuple[Study, str]:
    """Return (study, resolved config with its sources and checksum).

    Raises a one-line ValueError for any problem with a file or a binding, including an unused
    binding.
    """
    found: GinFiles | None = None
    try:
        found = read_gin_files(files, bindings)
        found.parse()
        study: Study = gin.get_configurable("Study")()
        used, bound = _bindings(gin.operative_config_str()), _bindings(gin.config_str())
        _refuse_unused(found, used)
        _refuse_overruled(_bindings("\n".join(bindings)), bound, used)
        return study, with_header(gin.operative_config_str(), found.sources)
    except Exception as error:
        raise ValueError(f"bad config: {_explain(error, found)}") from error
    finally:
        gin.clear_config()  # bindings must not apply to objects that are made by hand later


def _bound_to_itself(bindings: Sequence[tuple[str, str, str]]) -> str:
    """Return the fields through which an object of a class contains one of the same class."""
    parts = {
        kind + field: (kind, re.findall(r"@(?:\w+/)?(\w+)\(\)", v)) for kind, field, v in bindings
    }

    def reached(kinds: Sequence[str], seen: frozenset[str]) -> frozenset[str]:
        for kind in set(kinds) - seen:
            inner = [k for owner, found in parts.values() if owner == kind for k in found]
            seen = reached(inner, seen | {kind})
        return seen

    circular = [name for name, (kind, used) in parts.items() if kind in reached(used, frozenset())]
    return ", ".join(circular) or "a field"


def _explain(error: Exception, found: GinFiles | None) -> str:
    """Say in one line what is wrong, and in which file and line if that is known."""
    first, *rest = str(error).splitlines() or [repr(error)]
    if isinstance(error, FieldError):
        where = found.where(error.kind, error.field.partition("[")[0]) if found else ""
        return first + where
    if isinstance(error, RecursionError):
        name = _bound_to_itself(re.findall(r"\b(\w+)(\.\w+) = (.*)", gin.config_str()))
        return f"{name} is bound to its own class, directly or through its parts"
    if match := re.search(r"(\w+)\.__init__\(\) missing \d+ required .*?: (.*)", first):
        kind, names = match[1], match[2].replace("'", "").replace(" and ", ", ").replace(",,", ",")
        names = ", ".join(f"{kind}.{name}" for name in names.split(", "))
        return (
            f"nothing binds {names}: is a file empty or an include missing, or does it add to "
            "another config, which must be named first?"
        )
    scope = re.search(r"in scope '(.*)'", "\n".join(rest))
    if scope and first.startswith("macro() missing"):
        return f"no value is bound to the macro %{scope[1]}"
    if match := re.search(r"No configurable matching (?:reference '@)?'?([\w./]+)", first):
        first = first.rstrip(".") + similar(match[1].split("/")[-1], CLASSES)
    if match := re.search(r"Configurable '([^']+)' doesn't have a parameter named '(\w+)'", first):
        kind = CLASSES.get(match[1].split(".")[-1])
        known = [field.name for field in dataclasses.fields(kind)] if kind else ()
        first = first.rstrip(".") + similar(match[2], known)
    token = re.search(r"token (.*) \((.*)\)$", rest[-1]) if rest else None
    if token and "malformed node or string" in first:
        return f"{token[1]} is not a value ({token[2]}): put text in quotes, and '@' before a class"
    if isinstance(error, ModuleNotFoundError):
        first += ": install the package that has it on this machine, or run from its folder"
    elif not isinstance(error, ValueError | SyntaxError | OSError):
        first = f"{type(error).__name__}: {first}{author_place(error)}"
    location = [line.strip() for line in rest if line.startswith("  In file")]
    return " ".join([first, *(f"({line[3:]})" for line in location[:1])])[:500]


def _bindings(text: str) -> Bindings:
    """Every binding in a config string; a value may continue on indented lines."""
    found = re.findall(r"^([\w./-]+)\s*=(.*(?:\n[ \t]+.*)*)", text, re.MULTILINE)
    return {(tuple(n.split("/")[:-1]), n.split("/")[-1]): "".join(v.split()) for n, v in found}


def _refuse_unused(found: GinFiles, used: Bindings) -> None:
    """Raise ValueError for a mistyped scope or an unused macro, which gin accepts silently.

    A binding of an included file may be unused, because the including file can replace the object
    that it configures. A binding of any file may be unused if --gin_bindings are given.
    """
    single = any(binding.file is None for binding in found.bindings)
    for binding in found.bindings:
        if any(_same(binding.name, n) and {*binding.scopes} <= {*s} for s, n in used):
            continue
        replaceable = binding.included or (single and binding.file is not None)
        if replaceable and found.may_be_replaced(binding):
            continue
        known = ["/".join((*s, ".".join(n.split(".")[-2:]))) for s, n in used]
        hint = similar(binding.full_name, known) or ": is it mistyped?"
        where = f" ({binding.where})" if binding.where else ""
        raise ValueError(f"nothing uses the binding of {binding.full_name}{where}{hint}")


def _refuse_overruled(given: Bindings, bound: Bindings, used: Bindings) -> None:
    """Raise ValueError if a scoped binding, as saved configs have, overrides a given one."""
    for scopes, name in sorted(given):
        values = {v for (s, n), v in bound.items() if s == scopes and _same(name, n)}
        found = {
            (*s, n): v for (s, n), v in used.items() if _same(name, n) and set(scopes) <= set(s)
        }
        if not values & set(found.values()):
            ours, theirs = "/".join((*scopes, name)), sorted("/".join(where) for where in found)
            raise ValueError(f"{theirs[0]} overrides {ours}: bind that instead")


def _same(name: str, other: str) -> bool:
    """Whether two names mean the same parameter; one of them may omit its module."""
    if not ("." in name and "." in other):
        return name == other  # a macro
    return f".{name}".endswith(f".{other}") or f".{other}".endswith(f".{name}")
