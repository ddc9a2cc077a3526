"""Measure a run: tokens per second, MFU, goodput, seconds by phase, and profiler traces.

MFU (model FLOPs utilisation) is the share of the devices' dense bfloat16 peak that the model's own
FLOPs make up: 6 · (parameters − input embedding) + 6 · layers · width · length per token, causal
attention counted half, recomputation not counted (DecoderConfig.flops_per_token).

Goodput is the share of the time that a run held its machines in which it made progress. The useful
time is that of the ledger, which a checkpoint carries: steps that a kill undid are not in it. The
time held is kept in a file that a resume does not cut back. Start-up, compilation, saving, probing
and repeated steps are held time but not useful; the time between two starts is neither.
"""

import contextlib
import json
import pathlib
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import jax

from ttoaa import bucket
from ttoaa.accelerators import PEAK_FLOPS
from ttoaa.json_io import read_json_lines
from ttoaa.training.multihost import writes_records
from ttoaa.workdir import write_text


def peak_flops() -> float | None:
    """Return the peak of all devices together; None for a device that is not in the table."""
    peak = PEAK_FLOPS.get(jax.devices()[0].device_kind)
    return peak and peak * jax.device_count()


def mfu(tokens_per_second: float, flops_per_token: float) -> float | None:
    """Return the MFU of all devices together; None for a device that is not in the table."""
    peak = peak_flops()
    return peak and tokens_per_second * flops_per_token / peak


class Speedometer:
    """Measure speed from one read of a step's results to the next, which takes one step."""

    def __init__(self, tokens_per_step: int, flops_per_token: float) -> None:
        self._tokens, self._flops = tokens_per_step, flops_per_token
        self._last: float | None = None

    def lap(self) -> dict[str, float]:
        """Return "tokens_per_second", and "mfu" if known; call it when a step's results are read.

        Empty at the first call and after a pause.
        """
        now, last = time.perf_counter(), self._last
        self._last = now
        if last is None:
            return {}
        rate = self._tokens / (now - last)
        share = mfu(rate, self._flops)
        return {"tokens_per_second": rate, **({} if share is None else {"mfu": share})}

    def pause(self) -> None:
        """Do not count the time until the next lap."""
        self._last = None


HEARTBEAT_SECONDS = 30.0


class Attempts:
    """Record every start of a run, and heartbeats, as lines {"start", "time", "step"} of a file.

    "start" numbers the starts, "time" is in seconds since 1970. So the time that a killed process
    held is known to within one heartbeat, or to within the compilation, validation or save that the
    kill interrupted. With None for a path, as on processes other than the primary, nothing is kept.
    """

    def __init__(
        self,
        path: pathlib.Path | None,
        step: int,
        began: float | None = None,
        resumed: bool = False,
    ) -> None:
        """`began`, in time.time(), is when the process started; by default now."""
        self._last = float("-inf")
        self._upload = bucket.BackgroundUpload(path) if path else None
        lines = read_attempts(path) if path else []
        self._start = 1 + max((line["start"] for line in lines), default=-1)
        if path:
            # Rewritten, in case a kill cut the last line short.
            write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
        self._began = time.time() if began is None else began
        # Without the lines of earlier starts, the goodput of the whole run is unknown.
        self._held = held_seconds(lines) if lines or not resumed else None
        if began is not None:
            self._append(step, began)
        self.beat(step)

    def beat(self, step: int) -> None:
        """Record a heartbeat if the last one is old."""
        self._step = step
        if time.monotonic() - self._last >= HEARTBEAT_SECONDS:
            self._last = time.monotonic()
            self._append(step, time.time())

    def end(self) -> None:
        """Record the end of a process that was not killed."""
        self._append(self._step, time.time())
        with contextlib.suppress(OSError):
            self.upload()

    def upload(self) -> None:
        """Upload the file to a bucket, before a checkpoint that relies on it."""
        if self._upload:
            self._upload.finish()

    def goodput(self, useful: float) -> dict[str, float]:
        """Return {"goodput"} for the seconds of useful steps of the whole run; empty if unknown."""
        if self._held is None:
            return {}
        held = self._held + max(0.0, time.time() - self._began)
        return {"goodput": min(1.0, useful / held)} if held > 0 else {}

    def _append(self, step: int, seconds: float) -> None:
        if self._upload:
            with open(self._upload.path, "a", encoding="utf-8") as file:
                line = {"start": self._start, "time": round(seconds, 3), "step": step}
                file.write(json.dumps(line) + "\n")
            self._upload.start()


class _Line(TypedDict):
    start: int
    time: float
    step: int


def read_attempts(path: pathlib.Path) -> list[_Line]:
    """Read the lines of `Attempts`; raises ValueError, naming the file, where it is damaged."""
    return read_json_lines(path, _Line, "remove it to continue without the goodput")


def held_seconds(lines: Iterable[Mapping[str, Any]]) -> float:
    """Sum the time from each start to its last heartbeat, ignoring a clock that was set back."""
    first: dict[int, float] = {}
    last: dict[int, float] = {}
    for line in lines:
        start, seconds = line["start"], line["time"]
        first.setdefault(start, seconds)
        last[start] = max(last.get(start, seconds), seconds)
    return sum(last[start] - first[start] for start in first)


class Ledger:
    """Seconds by phase, over all starts of a run.

    Phases may nest: the seconds of an inner phase do not count for the outer one.
    """

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


def parse_profile_steps(text: str | None, total: int) -> range:
    """Parse the flag for a run of `total` steps; an empty range without it.

    Raises:
        ValueError: the text is not first:stop, or the run has no such step.
    """
    if text is None:
        return range(0)
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise ValueError(f"--profile_steps must be first:stop, such as 10:13, not {text!r}")
    if int(match[1]) >= total:
        raise ValueError(f"--profile_steps={text} is after the last step of a run of {total}")
    return range(int(match[1]), min(int(match[2]), total))


class Profiler:
    """Trace these steps (step k takes batch k) into `folder`, on the primary process only.

    A run that resumes after them traces nothing, so that a job can be restarted as it is.
    """

    def __init__(self, folder: pathlib.Path, steps: range) -> None:
        self._folder, self._tracing = folder, False
        self._steps = steps if writes_records() else range(0)

    def step(self, step: int, state: Any) -> contextlib.AbstractContextManager[Any]:
        """Return a context for the dispatch of a step; `state` is that before the step.

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
        """End a trace that was still open; dispatched steps should have finished by then."""
        if self._tracing:
            self._stop()

    def _stop(self) -> None:
        self._tracing = False
        jax.profiler.stop_trace()
