"""Checkpoints that something begins from: which there are, and what they say of themselves."""

import ast
import pathlib
from typing import Any

from ttoaa.training.stored import committed_steps


def steps_there(folder: pathlib.Path, step: int | None = None) -> list[int]:
    """Of the finished checkpoints; ValueError where there is none, or not the one asked for."""
    known = committed_steps(folder)
    if not known:
        raise ValueError(f"{folder} has no checkpoint: name a folder of a run or an import")
    if step not in (None, *known):
        raise ValueError(f"{folder} has no checkpoint {step}, only {known}")
    return known


def fields(text: str) -> dict[str, Any]:
    """Of a dataclass's repr, as a run's identity has it; none of an empty text."""
    if not text:
        return {}
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call), text
    return {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
