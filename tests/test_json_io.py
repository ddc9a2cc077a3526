import json
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from ttoaa.json_io import parse_json, read_json, read_json_lines


class Shard(TypedDict):
    file: str
    size: int
    share: NotRequired[float]
    next: NotRequired[str | list[str] | None]
    kind: NotRequired[Literal["a", "b"]]
    parts: NotRequired[dict[str, list[int]]]


GOOD: dict[str, Any] = {"file": "é⟨eos⟩", "size": 3}


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"share": 1, "next": None, "kind": "b", "parts": {"x": [], "y": [1, -2]}},
        {"share": 0.5, "next": ["a"], "anything": [{"else": float("nan")}]},
        {"next": "a"},
    ],
)
def test_what_has_the_structure_is_read_as_it_is(tmp_path, more):
    text = json.dumps(GOOD | more)
    for start in ("", "\ufeff"):
        (tmp_path / "x.json").write_text(start + text)
        assert json.dumps(read_json(tmp_path / "x.json", Shard)) == text
        assert json.dumps(parse_json(start + text, "x", Shard)) == text


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "is damaged: Expecting value: line 1 column 1 (char 0)"),
        (b'{"a": ', "is damaged: Expecting value: line 1 column 7 (char 6)"),
        (b'{"file": "\xff"}', "is damaged: not UTF-8 at byte 10"),
        (b'{"a": 1, "b": {"c": 2, "c": 2}}', "is damaged: the key 'c' occurs twice"),
        (b"[" * 100_000, "is damaged: nested too deeply"),
        (b'{"size": ' + b"9" * 5000 + b"}", "is damaged: Exceeds the limit (4300 digits)"),
        (b"[]", "must hold an object, not []"),
        (b"null", "must hold an object, not null"),
        (b'{"size": 3}', "has no 'file'"),
        ({"size": True}, "must hold an integer in size, not true"),
        ({"size": 3.0}, "must hold an integer in size, not 3.0"),
        ({"size": "3"}, 'must hold an integer in size, not "3"'),
        ({"file": None}, "must hold a text in file, not null"),
        ({"file": 7}, "must hold a text in file, not 7"),
        ({"file": "\ud800"}, 'must hold a text in file, not "\\ud800"'),
        ({"share": float("nan")}, "must hold a finite number in share, not NaN"),
        ({"share": float("-inf")}, "must hold a finite number in share, not -Infinity"),
        ({"share": 10**400}, "must hold a finite number in share, not 1000"),
        ({"share": False}, "must hold a finite number in share, not false"),
        ({"next": 1}, "must hold a text or a list or null in next, not 1"),
        ({"next": ["a", 1]}, "must hold a text or a list or null in next, not "),
        ({"kind": "c"}, 'must hold "a" or "b" in kind, not "c"'),
        ({"parts": []}, "must hold an object in parts, not []"),
        ({"parts": {"x": {}}}, "must hold a list in parts.x, not {}"),
        ({"parts": {"x": [1, "b"]}}, 'must hold an integer in parts.x.1, not "b"'),
        ({"size": "long" * 100}, "must hold an integer in size, not "),
    ],
)
def test_what_is_damaged_or_of_another_structure_is_one_line(tmp_path, content, problem):
    if isinstance(content, dict):
        content = json.dumps(GOOD | content).encode()
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(ValueError) as error:
        read_json(path, Shard, "download it again")
    line = str(error.value)
    assert line.startswith(f"{path} {problem}") and line.endswith(": download it again")
    assert "\n" not in line and len(line) < len(str(path)) + 200


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ('{"a": 1}\n', [{"a": 1}]),
        ('{"a": 1}\n{"a": 2}', [{"a": 1}]),
        ('{"a": 1}\n{"a', [{"a": 1}]),
        ('{"a": "\\u2028"}\n', [{"a": "\u2028"}]),
    ],
)
def test_lines_that_are_whole(tmp_path, text, lines):
    (tmp_path / "x.jsonl").write_text(text)
    assert read_json_lines(tmp_path / "x.jsonl") == lines


def test_lines_of_a_file_that_is_not_there(tmp_path):
    assert read_json_lines(tmp_path / "none.jsonl") == []


def test_a_damaged_line_is_named(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n\0\0\0\n{"a": 3}\n')
    with pytest.raises(ValueError, match=r"x\.jsonl:2 is damaged"):
        read_json_lines(tmp_path / "x.jsonl")
