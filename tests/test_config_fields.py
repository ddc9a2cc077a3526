"""Types and ranges of config fields."""

import dataclasses
import math
import pickle
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol

import pytest

from ttoaa.config_fields import (
    Above,
    AtLeast,
    Below,
    Count,
    Distinct,
    FieldError,
    Increasing,
    MultipleOf,
    NotEmpty,
    OneOf,
    PositiveInt,
    Share,
    check_nested,
    config_class,
    similar,
)


class Placed(Protocol):
    share: float


@config_class
class Inner:
    share: Share = 0.5


@config_class
class Example:
    clip: Annotated[float | None, Above(0)] = 1.0
    items: PositiveInt = 1
    micro: PositiveInt | None = None
    betas: tuple[Share, Annotated[float, AtLeast(0), Below(1)]] = (0.9, 0.95)
    groups: Sequence[tuple[Count, PositiveInt]] = ((0, 3),)
    names: Annotated[Sequence[str], NotEmpty(), Distinct()] = ("a",)
    lags: Annotated[Sequence[int], Increasing()] = ()
    tile: Annotated[int, MultipleOf(128)] = 128
    kind: Literal["x", "y"] = "x"
    policy: Annotated[str, OneOf({"full": 1, "none": 2})] = "full"
    by_name: Mapping[str, tuple[int, int]] = dataclasses.field(default_factory=dict)
    at: float | tuple[PositiveInt, ...] = 2.0
    inner: Inner = Inner()
    placed: Placed | None = None
    anything: Any = None


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"clip": 0}, "Example.clip must be a number above 0 or None, not 0"),
        ({"clip": "1"}, "Example.clip must be a number above 0 or None, not '1'"),
        ({"clip": math.nan}, "Example.clip must be a number above 0 or None, not nan"),
        ({"clip": math.inf}, "Example.clip must be a number above 0 or None, not inf"),
        ({"items": "60"}, "Example.items must be an integer of at least 1, not '60'"),
        ({"items": 0}, "Example.items must be an integer of at least 1, not 0"),
        ({"items": True}, "Example.items must be an integer of at least 1, not True"),
        ({"items": 2.0}, "Example.items must be an integer of at least 1, not 2.0"),
        ({"micro": 0}, "Example.micro must be an integer of at least 1 or None, not 0"),
        ({"betas": (0.9, 1)}, "Example.betas[1] must be a number of at least 0 and below 1, not 1"),
        (
            {"betas": (0.9,)},
            "Example.betas must be (a number of at least 0 and at most 1, "
            "a number of at least 0 and below 1), not (0.9,)",
        ),
        ({"groups": [(0, 0)]}, "Example.groups[0][1] must be an integer of at least 1, not 0"),
        (
            {"groups": 16},
            "Example.groups must be a list of (an integer of at least 0, "
            "an integer of at least 1), not 16",
        ),
        (
            {"names": "ab"},
            "Example.names must be a list of texts that is not empty and without duplicates, "
            "not 'ab'",
        ),
        ({"names": ["a", 3]}, "Example.names[1] must be text, not 3"),
        (
            {"lags": [1, 1]},
            "Example.lags must be a list of integers in increasing order, not [1, 1]",
        ),
        ({"tile": 100}, "Example.tile must be an integer that is a multiple of 128, not 100"),
        ({"kind": "z"}, "Example.kind must be one of x, y, not 'z'"),
        ({"policy": "all"}, "Example.policy must be one of full, none, not 'all'"),
        (
            {"by_name": {"a": (1,)}},
            "Example.by_name['a'] must be (an integer, an integer), not (1,)",
        ),
        ({"by_name": [1]}, "Example.by_name must be a dict of texts to (an integer, an integer)"),
        ({"at": (0,)}, "Example.at[0] must be an integer of at least 1, not 0"),
        ({"inner": Inner}, "Example.inner must be an Inner, as @Name() with the parentheses, not"),
        ({"placed": [Inner()]}, "Example.placed must be a Placed, as @Name()"),
        ({"placed": Inner}, "Example.placed must be a Placed, as @Name() with the parentheses or"),
    ],
)
def test_a_wrong_value_is_named_with_what_it_must_be(fields, message):
    with pytest.raises(FieldError) as error:
        Example(**fields)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    "fields",
    [
        {"clip": None},
        {"clip": 3},
        {"betas": [0, 0]},
        {"groups": []},
        {"names": ("b", "a")},
        {"by_name": {"a": [1, -2]}},
        {"at": (1, 2)},
        {"placed": Inner()},
        {"anything": "x"},
    ],
)
def test_a_right_value_is_kept_as_it_is(fields):
    assert {name: getattr(Example(**fields), name) for name in fields} == fields


def test_fields_are_checked_before_rules_about_several():
    @config_class
    class Base:
        low: int
        high: int

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError("low is above high")

    @config_class
    class Derived(Base):
        more: PositiveInt = 1

    with pytest.raises(FieldError, match=r"Derived\.low must be an integer, not '2'"):
        Derived("2", 1)
    with pytest.raises(FieldError, match=r"Derived\.more"):
        Derived(2, 1, more=0)
    with pytest.raises(ValueError, match="low is above high"):
        Derived(2, 1)
    assert dataclasses.replace(Derived(1, 2), high=3) == Derived(1, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        Derived(1, 2).low = 0


def test_dataclasses_of_authors_are_checked_where_they_are_used():
    @dataclasses.dataclass(frozen=True)
    class Own:
        count: int = 1

    @config_class
    class Holder:
        parts: Sequence[Any]

    check_nested(Holder([Own()]))
    with pytest.raises(FieldError, match=r"Own\.count must be an integer, not 'x'"):
        check_nested(Holder([Own("x")]))


def test_similar_names_are_proposed():
    assert similar("membrs", ["members", "hosts"]) == ": did you mean members?"
    assert similar("zzz", ["members"]) == ""


def test_an_error_reaches_another_process():
    with pytest.raises(FieldError) as error:
        Example(items=0)
    again = pickle.loads(pickle.dumps(error.value))
    assert (str(again), again.kind, again.field) == (str(error.value), "Example", "items")
