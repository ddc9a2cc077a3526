"""Profiler traces on demand: --profile_steps=10:13 traces the steps 10, 11 and 12, no others."""

import contextlib
import pathlib
import re
from typing import Any

import jax
from absl import flags

from ttoaa.training.distributed import primary

STEPS = flags.DEFINE_string(
    "profile_steps", None, "first:stop, such as 10:13: trace steps 10, 11 and 12 into <run>/profile"
)


def steps_of(text: str | None, total: int) -> range:
    """The steps that `text` names, of a run of `total`; ValueError where it names none."""
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"--profile_steps is first:stop, such as 10:13, not {text!r}")
    if int(match[1]) >= total:
        raise ValueError(f"--profile_steps={text} is behind the last step of a run of {total}")
    return range(int(match[1]), min(int(match[2]), total))


class Profiler:
    """Traces these steps (step k takes batch k) into `folder`, on the primary process alone.

    A run that is continued behind them traces nothing, so that a job may be restarted as it is.
    """

    def __init__(self, folder: pathlib.Path, steps: range) -> None:
        self._folder, self._tracing = folder, False
        self._steps = steps if primary() else range(0)

    def step(self, step: int, state: Any) -> contextlib.AbstractContextManager[Any]:
        """To be held around the dispatch of a step; `state` is what the steps before it made.

        It waits for the devices only where a trace begins or ends.
        """
        if (step in self._steps) != self._tracing:
            jax.block_until_ready(state)
            if self._tracing:
                self._stop()
            else:
                self._folder.mkdir(parents=True, exist_ok=True)
                jax.profiler.start_trace(str(self._folder))
                self._tracing = True
        if self._tracing:
            return jax.profiler.StepTraceAnnotation("train", step_num=step)
        return contextlib.nullcontext()

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(self, *_: object) -> None:
        """Ends a trace that the run ended in; what was dispatched should be done by then."""
        if self._tracing:
            self._stop()

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
