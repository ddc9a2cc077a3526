"""Every number in every config class is checked, and the edges of its range are as listed here."""

import dataclasses
import importlib
import math
import pathlib
import re
import typing

import pytest

import ttoaa
from ttoaa.config_fields import CLASSES, FieldError
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.vocabulary import TrainBPE
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
REQUIRED = {
    "AdamW": {"schedule": RATE},
    "Acquisition": {**NAMED, "primary": "log_rmse/controlled"},
    "Canaries": {**NAMED, "primary": "auc/plain-16x"},
    "ConstantLinear": {"peak": 1e-3, "warmup": 5},
    "Contamination": {**NAMED, "primary": "accuracy/0x"},
    "Cosine": {"peak": 1e-3, "warmup": 5},
    "CosineThenLinear": {"peak": 1e-3, "warmup": 5, "horizon": 90.5, "decay_from": 50},
    "DecoderConfig": {"vocab_size": 512, "layers": 2, "width": 32, "heads": 4, "hidden": 64},
    "ExistingTokenizer": {"path": "a.json"},
    "Explicit": {"positions": [1]},
    "FixedRate": {"tokens": 9},
    "Forgetting": {**NAMED, "primary": "cross_entropy/end"},
    "Geometry": {"length": 32, "batch": 8, "steps": 40},
    "InitFrom": {"folder": "run"},
    "Mixture": {"sources": [EmbeddedPython()], "weights": [2.0]},
    "OlmoCorpus": {"files": ["a.npy"], "order": "o.npy", "tokenizer": TrainBPE()},
    "Optax": {"schedule": RATE, "name": "lion"},
    "ParquetQuestions": {"paths": ["a"]},
    "PartOf": {"whole": EmbeddedPython()},
    "PerInterval": {"steps": 5},
    "Pool": {"sources": [EmbeddedPython()], "rates": [2.0]},
    "Reasoning": {**NAMED, "primary": "accuracy/op-1"},
    "RecordQuestions": {"paths": ["a"], "benchmark": "piqa"},
    "Rehearsal": {"name": "x", "groups": {"a": (1, 1)}, "batches": (1, 1)},
    "RequestQuestions": {"paths": ["a"]},
    "Sampling": {"max_new_tokens": 4, "stop": ((1, 2),)},
    "SeqioTask": {"name": "task"},
    "SeqioTokenizer": {"name": "task"},
    "TaskQuestions": {"benchmark": "piqa"},
    "TextFiles": {"paths": ["a.txt"]},
    "TfdsDataset": {"folder": "a"},
    "Training": {"optimizer": AdamW(RATE)},
    "WholeBatch": {"steps": [1], "row": 0},
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
