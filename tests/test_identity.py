import dataclasses
import functools
import json

import numpy as np
import pytest

from ttoaa.identity import (
    canonical,
    check,
    describe,
    differences,
    digest,
    identity,
    restore,
    with_defaults,
)


@dataclasses.dataclass(frozen=True)
class Part:
    rate: float
    names: tuple[str, ...] = ("a",)


@dataclasses.dataclass(frozen=True)
class Config:
    layers: int
    part: Part = dataclasses.field(default_factory=lambda: Part(0.5))


def later(rate=0.5, **new):
    """`Config` and `Part` as a later version has them, each with one more field."""

    @dataclasses.dataclass(frozen=True)
    class Part:
        rate: float
        names: tuple[str, ...] = ("a",)
        decay: float | None = None

    @dataclasses.dataclass(frozen=True)
    class Config:
        layers: int
        part: Part = dataclasses.field(default_factory=lambda: Part(0.5))
        width: int = 64

    inner = {name: new.pop(name) for name in ("decay",) if name in new}
    return Config(2, Part(rate, **inner), **new)


def stored(**parts):
    """An identity as a file gives it back."""
    return json.loads(json.dumps(identity(**parts)))


def test_defaults_are_filled_in_and_the_schema_is_named():
    assert stored(model=Config(2), plan="abc") == {
        "schema": 1,
        "model": {
            "type": "Config",
            "layers": 2,
            "part": {"type": "Part", "rate": 0.5, "names": ["a"]},
        },
        "plan": "abc",
        "defaulted": ["model.part", "model.part.names"],
    }


def test_a_field_added_with_a_default_orphans_nothing_in_either_direction():
    before, after = stored(model=Config(2)), identity(model=later())
    check("run", before, after, "move it")
    check("run", json.loads(json.dumps(after)), identity(model=Config(2)), "move it")
    assert digest(Config(2)) == digest(later())


@pytest.mark.parametrize(
    ("now", "message"),
    [
        (later(width=32), "run was made with model.width absent, now it would be 32: move it"),
        (later(decay=0.1), "run was made with model.part.decay absent, now it would be 0.1"),
        (later(rate=0.1), "run was made with model.part.rate 0.5, now it would be 0.1"),
        (Config(3), "run was made with model.layers 2, now it would be 3"),
        (Config(2, Part(0.5, ("a", "b"))), r'with model.part.names \["a"\], now .* \["a","b"\]'),
        (Part(0.5), "run was made with model Config, now it would be Part"),
        (None, "run was made with model {"),
    ],
)
def test_another_value_is_refused_and_both_sides_are_named(now, message):
    with pytest.raises(ValueError, match=message):
        check("run", stored(model=Config(2)), identity(model=now), "move it")


def test_flat_fields_know_their_defaults_too():
    made = {"layers": 2, "part": "Part", "part.rate": 0.5, "part.names": ["a"]}
    after = {**made, "part.decay": None, "width": 64}
    check("corpus", made, with_defaults(after, later()), "move it")
    with pytest.raises(ValueError, match="corpus was made with width null, now it would be 32"):
        check("corpus", made, with_defaults({**after, "width": 32}, later(width=32)), "move it")


def test_parts_that_only_the_made_one_has_do_not_count():
    made = stored(model=Config(2), controllers="x")
    assert differences(made, identity(model=Config(2))) == []
    assert [d.path for d in differences(made, identity(model=Config(2), plan="p"))] == ["plan"]


def test_another_schema_is_one_line():
    with pytest.raises(ValueError, match=r"run was made by another version .* schema None"):
        check("run", {"model": "DecoderConfig(layers=2)"}, identity(model=Config(2)), "move it")


def test_equal_values_have_one_text_whatever_the_order_of_their_keys():
    one, other = {"b": 1, "a": (1, 2)}, {"a": [1, 2], "b": 1}
    assert canonical(describe(one)) == canonical(describe(other)) == '{"a":[1,2],"b":1}'


def test_arrays_functions_and_partials_are_told_apart_by_content():
    zeros, ones = describe(np.zeros(3)), describe(np.ones(3))
    assert zeros["shape"] == [3] and zeros["sha256"] != ones["sha256"]
    assert describe(json.dumps) == "json.dumps"
    assert describe(functools.partial(json.dumps, indent=1)) == {
        "type": "json.dumps",
        "args": [],
        "indent": 1,
    }
    with pytest.raises(ValueError, match=r"field\.inner must be made of .* not <object"):
        identity(field={"inner": object()})


def test_a_config_of_plain_fields_comes_back():
    part = Part(0.25)
    assert restore(Part, {**describe(part), "unknown": 1}).rate == 0.25
