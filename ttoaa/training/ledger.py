"""Where the time went, by phase, carried over restarts: what "the cost of one" rests on."""

import contextlib
import time
from collections.abc import Iterator, Mapping


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
