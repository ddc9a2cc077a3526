"""How fast: tokens a second, and MFU, the share of the chips' peak that the model's FLOPs make.

The convention is one everywhere (DecoderConfig.flops_per_token): 6 · (parameters − input embedding)
+ 6 · layers · width · length FLOPs a token, causal attention counted half, nothing that is computed
twice counted twice, over the dense bfloat16 peak.

Goodput: the share of the time that a run held its machines in which it made progress.

The useful time is the ledger's: a checkpoint carries it, so the steps that a kill undid are not in
it. The time held is kept apart, in a file that no resume cuts back: every start and a sign of life
now and then, so that what `kill -9` took is counted to within one such interval, or to within the
compilation, validation or save that it hit. Start-up, compilation, saving, probing and steps done
again are held and not useful; time between two starts is neither.

Where the time went, by phase, carried over restarts: what "the cost of one" rests on.

Profiler traces on demand: --profile_steps=10:13 traces the steps 10, 11 and 12, no others.
"""

import contextlib
import json
import pathlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
from absl import flags

from ttoaa.accelerators import PEAK_FLOPS
from ttoaa.training.multihost import primary
from ttoaa.workdir import read_json_lines, write_text


def peak_flops() -> float | None:
    """Of all devices together; None where the device is not known, never a guess."""
    one = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return one and one * jax.device_count()


def mfu(tokens_per_second: float, flops_per_token: float) -> float | None:
    """Of all devices together; None ("unknown") where the device is not in the table."""
    peak = peak_flops()
    return peak and tokens_per_second * flops_per_token / peak


class Speedometer:
    """Speed over the time between two reads of the device, which is that of one step."""

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self._tokens, self._flops = tokens_per_step, flops_per_token
        self._before: float | None = None

    def lap(self) -> dict[str, float]:
        """To be called when a step's results were read: {"tokens_per_second", "mfu" if known}."""
        now, before = time.perf_counter(), self._before
        self._before = now
        if before is None:
            return {}
        rate = self._tokens / (now - before)
        share = mfu(rate, self._flops)
        return {"tokens_per_second": rate, **({} if share is None else {"mfu": share})}

    def pause(self) -> None:
        """What comes until the next lap is not a step's time."""
        self._before = None


INTERVAL = 30.0
"""Seconds between two signs of life."""


class Attempts:
    """Appends {"start", "time", "step"} to a file: number of the start, seconds since 1970, step.

    With None for a path, as on processes other than the primary, nothing is kept.
    """

    def __init__(self, path: pathlib.Path | None, step: int, began: float | None = None) -> None:
        """`began`, in time.time(), is when the process started; by default now."""
        self._path, self._last = path, float("-inf")
        lines = read_json_lines(path) if path else []
        self._start = 1 + max((line["start"] for line in lines), default=-1)
        if path:
            # Written anew, lest what follows is appended to a line that a kill cut short.
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._began = time.time() if began is None else began
        self._held = held_seconds(lines)
        if began is not None:
            self._note(step, began)
        self.beat(step)

    def beat(self, step: int) -> None:
        """A sign of life, written down if the last one is long ago."""
        self._step = step
        if time.monotonic() - self._last >= INTERVAL:
            self._last = time.monotonic()
            self._note(step, time.time())

    def end(self) -> None:
        """The last sign of life, of whoever ends in order."""
        self._note(self._step, time.time())

    def goodput(self, useful: float) -> dict[str, float]:
        """{"goodput"}, of the seconds of useful steps of the whole run; empty before any time."""
        held = self._held + max(0.0, time.time() - self._began)
        return {"goodput": min(1.0, useful / held)} if held > 0 else {}

    def _note(self, step: int, seconds: float) -> None:
        if self._path:
            with open(self._path, "a", encoding="utf-8") as file:
                line = {"start": self._start, "time": round(seconds, 3), "step": step}
                file.write(json.dumps(line) + "\n")


def held_seconds(lines: Iterable[Mapping[str, Any]]) -> float:
    """From each start to its last sign of life; a clock that was set back counts as standing."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for line in lines:
        start, seconds = line["start"], line["time"]
        first.setdefault(start, seconds)
        last[start] = max(last.get(start, seconds), seconds)
    return sum(last[start] - first[start] for start in first)


class Ledger:
    """Seconds by phase. Phases may nest: the inner one's seconds are not counted twice."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self.seconds: dict[str, float] = dict(seconds or {})
        self._inner = [0.0]

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        self._inner.append(0.0)
        try:
            yield
        finally:
            elapsed = time.perf_counter() - begin
            own = elapsed - self._inner.pop()
            self._inner[-1] += elapsed
            self.seconds[name] = self.seconds.get(name, 0.0) + own


STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "steps to trace into <run>/profile, as first:stop; 10:13 traces steps 10, 11 and 12",
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
