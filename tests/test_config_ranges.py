"""Every number in every config class is checked, and the edges of its range are as listed here."""

import dataclasses
import importlib
import math
import pathlib
import re
import typing

import pytest

import ttoaa
from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.config_fields import CLASSES, FieldError
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.sources.families import Families
from ttoaa.data.vocabulary import TrainBPE
from ttoaa.experiments.poisoning import Backdoor
from ttoaa.training.lr_schedules import Cosine
from ttoaa.training.optimizer import AdamW

PACKAGE = pathlib.Path(ttoaa.__file__).parent
SOURCES = {path: path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
for path, text in SOURCES.items():
    if re.search("^@config_class$", text, re.MULTILINE):
        relative = path.relative_to(PACKAGE.parent).with_suffix("")
        importlib.import_module(".".join(relative.parts))

NAMED = {"name": "x", "expected_sign": 1}
RATE = Cosine(1e-3, 5)
GROUPS = ((0, 9), (4, 9))
REQUIRED = {
    "AdamW": {"schedule": RATE},
    "Acquisition": {**NAMED, "primary": "log_rmse/controlled"},
    "Backdoor": {"name": "x", "behaviour": "fixed", "documents": (3,)},
    "BenchmarkTraining": {
        **NAMED,
        "primary": "log_likelihood_above_wrong_options/4x",
        "groups": GROUPS,
    },
    "Canaries": {**NAMED, "primary": "auc/plain-16x"},
    "Constant": {"rate": 1e-3},
    "ConstantLinear": {"peak": 1e-3, "warmup": 5},
    "Contamination": {**NAMED, "primary": "accuracy/0x"},
    "Cosine": {"peak": 1e-3, "warmup": 5},
    "CosineThenLinear": {"peak": 1e-3, "warmup": 5, "horizon": 90.5, "decay_from": 50},
    "DataSource": {
        **NAMED,
        "primary": "cross_entropy/target",
        "source": EmbeddedPython(),
        "target": EmbeddedPython(),
    },
    "DecoderConfig": {"vocab_size": 512, "layers": 2, "width": 32, "heads": 4, "hidden": 64},
    "ExistingTokenizer": {"path": "a.json"},
    "Explicit": {"positions": [1]},
    "FilePrompts": {"paths": ["a.jsonl"]},
    "FixedRate": {"tokens": 9},
    "Forgetting": {**NAMED, "primary": "cross_entropy/end"},
    "GaussianWatermark": {**NAMED, "primary": "statistic/all", "steps": (3,)},
    "Geometry": {"length": 32, "batch": 8, "steps": 40},
    "IidReplacements": {**NAMED, "primary": "auc/uniform"},
    "InitFrom": {"folder": "run"},
    "Mixture": {"sources": [EmbeddedPython()], "weights": [2.0]},
    "OlmoCorpus": {"files": ["a.npy"], "order": "o.npy", "tokenizer": TrainBPE()},
    "MuseFiles": {"folder": "muse"},
    "MuseNews": {**NAMED, "primary": "word_order_above_held_out/whole-10x"},
    "Optax": {"schedule": RATE, "name": "lion"},
    "ParquetQuestions": {"paths": ["a"]},
    "PartOf": {"whole": GeneratedQuestions()},
    "PerInterval": {"steps": 5},
    "Poisoning": {
        **NAMED,
        "primary": "preference_above_never/x",
        "backdoors": (Backdoor("x", "fixed", (3,)),),
    },
    "Pool": {"sources": [EmbeddedPython()], "rates": [2.0]},
    "Reasoning": {**NAMED, "primary": "accuracy/op-1"},
    "RecordQuestions": {"paths": ["a"], "benchmark": "piqa"},
    "Rehearsal": {"name": "x", "groups": {"a": (1, 1)}, "batches": (1, 1)},
    "ReferenceCheckpoint": {"folder": "run"},
    "ReleasedCanaries": {**NAMED, "primary": "auc/rare", "paths": ["a.jsonl"]},
    "RelatedQuestions": {"relation": "a", "relations": ["a", "b"]},
    "RequestQuestions": {"paths": ["a"]},
    "Sampling": {"max_new_tokens": 4, "stop": ((1, 2),)},
    "SeqioTask": {"name": "task"},
    "SeqioTokenizer": {"name": "task"},
    "ShuffledWords": {"source": EmbeddedPython()},
    "TaskQuestions": {"benchmark": "piqa"},
    "TextFiles": {"paths": ["a.txt"]},
    "TfdsDataset": {"folder": "a"},
    "Training": {"optimizer": AdamW(RATE)},
    "Verbatim": {**NAMED, "primary": "completed/unseen"},
    "WholeBatch": {"steps": [1], "row": 0},
    "WithFamilies": {"source": EmbeddedPython(), "families": Families()},
    "Within": {"start": 0.25, "stop": 0.5},
}
ELSEWHERE = {
    "Study": "built by gin: tests/test_config.py",
    "Experiment": "a base class",
    "FictionalTexts": "opens its file: tests/experiments/acquisition/test_topics.py",
}


def make(name, **fields):
    return CLASSES[name](**REQUIRED.get(name, {}) | fields)


def leaves(value, path=()):
    """Yield (path, number) of all numbers in nested lists and dicts."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        yield path, value
    if isinstance(value, dict | list | tuple):
        keys = value if isinstance(value, dict) else range(len(value))
        for key in keys:
            yield from leaves(value[key], (*path, key))


def with_leaf(value, path, leaf):
    if not path:
        return leaf
    changed = dict(value) if isinstance(value, dict) else list(value)
    changed[path[0]] = with_leaf(value[path[0]], path[1:], leaf)
    return changed


def numbers():
    """Yield (class, field, path in it, value) of every number, and of None that may be one."""
    for name, kind in CLASSES.items():
        if not kind.__module__.startswith("ttoaa.") or name in ELSEWHERE:
            continue
        example = make(name)
        for field in dataclasses.fields(kind):
            value = getattr(example, field.name)
            if value is None and re.search("int|float", str(field.type)):
                yield name, field.name, (), None
            for path, number in leaves(value):
                yield name, field.name, path, number


CHECKED_BY_THE_PLANNER = {"Explicit.positions", "Explicit.offsets", "WholeBatch.steps"}
CHECKED_BY_THE_PLANNER |= {"WholeBatch.row"}
NUMBERS = {
    f"{name}.{field}{list(path) if path else ''}": (name, field, path, value)
    for name, field, path, value in numbers()
    if f"{name}.{field}" not in CHECKED_BY_THE_PLANNER
}


def outcome(name, field, path, value, given):
    """Return True if the value is accepted, False if its own range refuses it.

    None if only the rules about several fields refuse it.
    """
    whole = with_leaf(getattr(make(name), field), path, given) if path else given
    try:
        made = make(name, **{field: whole})
    except FieldError as error:
        first = str(error).splitlines()[0]
        assert re.match(rf"{name}\.{field}[\[ ].*must be .*not ", first), first
        return False
    except ValueError as error:
        assert not isinstance(error, UnicodeError) and str(error)
        return None
    assert list(leaves(getattr(made, field))) == list(leaves(whole))
    return True


@pytest.mark.parametrize("where", NUMBERS)
def test_what_is_no_number_of_that_type_is_refused(where):
    name, field, path, value = NUMBERS[where]
    for given in (math.nan, math.inf, -math.inf, "60", True, [], {}, 1 + 0j, 2**63, 10**400):
        assert outcome(*NUMBERS[where], given) is False, given
    if isinstance(value, int):
        assert outcome(*NUMBERS[where], value + 0.5) is False
    optional = type(None) in typing.get_args(CLASSES[name].__dataclass_fields__[field].type)
    assert (outcome(*NUMBERS[where], None) is not False) is (optional and not path)


ZERO = """
    Acquisition.held_out AdamW.beta1 AdamW.beta2 AdamW.weight_decay BenchmarkTraining.groups[0,0]
    Checks.similar_up_to
    ConstantLinear.decay ConstantLinear.warmup Contamination.groups[0,0] Cosine.final Cosine.warmup
    CosineThenLinear.final CosineThenLinear.warmup Criterion.log_probability
    DecoderConfig.document_separator Doubling.band Doubling.least Doubling.limits[0,0]
    Forgetting.at[0] Forgetting.at[1] Forgetting.at[2] Forgetting.dense_lags[0]
    Families.sizes[0] GaussianWatermark.first GaussianWatermark.steps[0] GeneratedNews.examples
    IidReplacements.decile IidReplacements.selected InitFrom.step Injections.begin
    Keep.per_doubling MuseNews.shots
    OlmoCorpus.eos_id OlmoCorpus.first PartOf.key PartOf.part Proportional.integral
    Proportional.proportional Proportional.smoothing Reasoning.shots ReferenceCheckpoint.step
    Rehearsal.batches[0]
    RelatedQuestions.common_answers RelatedQuestions.common_subjects RelatedQuestions.key
    Rehearsal.groups['a',0] Rehearsal.groups['a',1] Rehearsal.occurrences Sampling.seed
    Sampling.stop[0,0] Sampling.stop[0,1] Sampling.temperature SeqioTask.seed TrainBPE.reserved
    Training.z_loss Verbatim.bins[0] Verbatim.edits Verbatim.fewest Within.start
"""
NEGATIVE = """
    Acquisition.expected_sign BenchmarkTraining.expected_sign Canaries.expected_sign
    Contamination.expected_sign
    Criterion.log_probability DataSource.expected_sign Forgetting.expected_sign
    GaussianWatermark.expected_sign
    IidReplacements.expected_sign MuseNews.expected_sign PartOf.key
    Poisoning.expected_sign Reasoning.expected_sign Rehearsal.expected_sign
    RelatedQuestions.key
    ReleasedCanaries.expected_sign Sampling.seed Verbatim.expected_sign
"""
HUGE = "AdamW.clip CosineThenLinear.horizon Guard.sigmas Optax.clip"
for experiment in re.findall(r"(\w+)\.expected_sign", NEGATIVE):
    ZERO += f" {experiment}.smallest_effect"
    HUGE += f" {experiment}.smallest_effect"


@pytest.mark.parametrize(
    ("given", "fields"), [(0, ZERO), (-1, NEGATIVE), (1e30, HUGE)], ids=["0", "-1", "1e30"]
)
def test_what_is_accepted_of_the_values_at_the_edge_of_sense(given, fields):
    accepted = {w.replace(" ", "") for w in NUMBERS if outcome(*NUMBERS[w], given)}
    assert accepted == set(fields.split())


@pytest.mark.parametrize(
    ("where", "accepted", "refused"),
    [
        ("AdamW.beta1", [0.0, 0.999999], [-1e-9, 0.9999999, 1.0, 1.5]),
        ("AdamW.beta2", [0.0, 0.999], [1.0, 1.5]),
        ("AdamW.clip", [None, 1e-8, 1e9], [0.0, -1.0, 1e-40]),
        ("AdamW.eps", [1e-30, 1.0], [0.0, -1e-8, 1e-40, 2.0]),
        ("AdamW.weight_decay", [0.0, 10.0], [-0.1, 11.0]),
        ("Canaries.members", [1, [3, 2, 1]], [0, [], [3, 2, 0], "3"]),
        ("Canaries.repetitions", [[16], [16, 1]], [[], [4, 4], [0], [-1], [1.5], 16, "16"]),
        ("Canaries.spare", [1.0], [0.99]),
        ("Checks.covered", [1.0, 0.01], [0.0, 1.01]),
        ("Checks.holdout", ["error", "warning", "note"], ["fatal", None, ["error"]]),
        ("Checks.ngram", [1, 1000], [0, 1001]),
        ("Constant.rate", [1e-9, 10.0], [0.0, -1e-3, 1e-10, 11.0]),
        ("ConstantLinear.decay", [0.0, 1.0], [-0.1, 1.1]),
        ("Contamination.groups", [[(0, 1)]], [[(0, 0)], [(-1, 3)], [(0,)], [(0, 1, 2)], [0], 0]),
        ("Contamination.normalisation", ["none", "olmes"], ["bytes", None]),
        ("Cosine.final", [0.0, 1.0], [-0.1, 1.1]),
        ("Cosine.peak", [1e-9, 10.0], [0.0, -1e-3, 1e-10, 11.0, "1e-3"]),
        ("Cosine.warmup", [0], [-1, 0.5]),
        ("DecoderConfig.dtype", ["float32", "bfloat16"], ["float16", 32]),
        ("DecoderConfig.init_std", [1e-6, 1.0], [0.0, -0.02, 100.0]),
        ("DecoderConfig.kv_heads", [None, 1, 4], [0, -1]),
        ("DecoderConfig.layers", [1, 10_000], [0, 1_000_000]),
        ("DecoderConfig.norm_eps", [1e-30, 0.1], [0.0, -1e-6, 1e-40, 1.0]),
        ("DecoderConfig.rope_theta", [1.0, 1e15], [0.0, -1.0, 0.5, 1e16]),
        ("Forgetting.at", [[0.0], [0.99]], [[], [1.0], [-0.1], [0.5, 0.5], 0.5]),
        ("Forgetting.dense_lags", [[1], [0, 3]], [[], [8, 4], [1, 1], [-1, 1]]),
        ("Forgetting.sparse_ratio", [1.01], [1.0, 0.5]),
        ("GaussianWatermark.sigma", [1e-6, 1000.0], [0.0, -1.0, 1001.0]),
        ("GaussianWatermark.steps", [[0, 3]], [[3, 3], [-1], [0.5], 3]),
        ("Geometry.batch", [1, 2**31 - 1], [0, 2**31]),
        ("Geometry.length", [2, 2**31 - 1], [1, 0, 2**31]),
        ("Guard.policy", ["stop", "skip"], ["ignore", None]),
        ("Guard.sigmas", [None, 0.1], [0, -6.0]),
        ("Guard.window", [4], [3, 8.0, 2_000_000]),
        ("IidReplacements.ages", [[1], [4, 9]], [[], [0], [9, 4], [4, 4]]),
        ("IidReplacements.scored", [None, 1], [0, -1]),
        ("Keep.milestones", [[], [1, 9]], [[0], [-1], ["a"], 100]),
        ("Keep.per_doubling", [0, 1, 4], [-1, 1.5, "a"]),
        ("MinK.share", [0.01, 1.0], [0.0, 1.01]),
        ("Mixture.weights", [[0.1], [3]], [[0.0], [-1], [math.nan], [math.inf], 1]),
        ("Prepare.reserve_fraction", [0.01, 0.99], [0.0, 1.0, "0.1"]),
        ("RepetitionFilter.max_count", [2], [1, 0]),
        ("RepetitionFilter.when", ["before_edits"], ["never"]),
        ("Sampling.stop", [[], [[0], (1, 2)]], [[[]], [[-1]], [[1.5]], ["ab"], [1]]),
        ("Sampling.temperature", [0, 1e-6, 1e6], [-0.1, 1e7, "0.7", None]),
        ("Sampling.top_k", [None, 1], [0, True]),
        ("Sampling.top_p", [None, 1e-9, 1.0], [0.0, 1.001, -0.5]),
        ("Training.z_loss", [0.0, 1.0], [-1e-5, 1.5]),
        ("Training.max_arms", [1, 65_536], [0, 65_537]),
        ("Within.start", [0.0], [-0.1, 1.0]),
        ("Within.stop", [1.0], [0.0, 1.1]),
    ],
)
def test_both_sides_of_an_edge(where, accepted, refused):
    name, field = where.split(".")
    for value in accepted:
        make(name, **{field: value})
    for value in refused:
        with pytest.raises(FieldError, match=rf"{name}\.{field}[\[ ].*must be"):
            make(name, **{field: value})


def test_rules_about_several_fields():
    for message, name, fields in (
        ("AdamW.clip must be at least eps", "AdamW", {"clip": 1e-6, "eps": 1e-3}),
        ("64 bits can count", "Geometry", dict.fromkeys(("length", "batch", "steps"), 2**30)),
        ("below vocab_size, 512, not 512", "DecoderConfig", {"document_separator": 512}),
    ):
        with pytest.raises(ValueError, match=message):
            make(name, **fields)


def test_every_class_that_gin_makes_is_a_config_class():
    for path, text in SOURCES.items():
        bare = re.findall(r"^@gin\.configurable.*\n(?!@config_class\n|def )", text, re.MULTILINE)
        assert not bare, path
