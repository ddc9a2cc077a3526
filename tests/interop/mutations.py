"""Random damage to JSON, safetensors files and folders, and a tally of what became of it."""

import collections
import contextlib
import copy
import json
import math
import traceback

import numpy as np

VALUES = [
    *(None, True, False, 0, 1, -1, 2, 3, 7, 100, 10**6, 2**31, 10**30, 10**400, 0.5, 2.0, -0.0),
    *(math.nan, math.inf, -math.inf, 1e39, 1e-320, 1e300, 5e5, 1e4, 1e-6),
    *("", "2", "1e-6", "nan", "é", "\ud800", "a\0b", "../x", "/etc/passwd", "." * 300, "bfloat16"),
    *([], [1], ["a"], [[]], {}, {"a": 1}, {"rope_type": "default"}, {"rope_theta": math.nan}),
]
KEYS = ["", "a", "é", "rope_theta", "rope_scaling", "num_hidden_layers", "torch_dtype", "head_dim"]


class Tally(collections.Counter):
    """Counts of: refused, right, wrong, traceback; the last two are also kept with their cause."""

    def __init__(self):
        super().__init__()
        self.faults = []

    @contextlib.contextmanager
    def one(self, cause, *names):
        """Count one try; what is refused must be one line with one of these names."""
        try:
            yield
        except (ValueError, OSError) as error:
            line = str(error)
            fine = "\n" not in line and len(line) < 600 and any(name in line for name in names)
            self.put("refused" if fine else "wrong", f"{cause}: message {line[:300]!r}")
        except AssertionError as error:
            self.put("wrong", f"{cause}: {str(error)[:300]}")
        except Exception:
            self.put("traceback", f"{cause}: {traceback.format_exc()[-400:]}")
        else:
            self.put("right", cause)

    def put(self, outcome, cause):
        self[outcome] += 1
        if outcome in ("wrong", "traceback"):
            self.faults.append(f"{outcome}: {cause}")


def mutate_value(rng, value):
    """Return a copy of a JSON value with one to three changes, and what was changed."""
    value, said = copy.deepcopy(value), []
    for _ in range(rng.integers(1, 4)):
        parent, key = _place(rng, value)
        if parent is None:
            new = _pick(rng, VALUES)
            return new, f"all = {new!r:.60}"
        kind = rng.integers(5)
        if kind == 0:
            said.append(f"del {key!r:.60}")
            del parent[key]
        elif kind == 1 and isinstance(parent, dict):
            key = _pick(rng, KEYS) + _pick(rng, ["", "x"])
            parent[key] = _pick(rng, VALUES)
            said.append(f"{key} = {parent[key]!r:.60}")
        else:
            parent[key] = copy.deepcopy(_pick(rng, VALUES))
            said.append(f"{key} = {parent[key]!r:.60}")
    return value, "; ".join(said)


def _place(rng, value):
    """Return (a list or an object inside the value, a key of it); None for the value itself."""
    places = []
    stack = [value]
    while stack:
        here = stack.pop()
        keys = list(here) if isinstance(here, dict) else range(len(here))
        places += [(here, key) for key in keys]
        stack += [here[key] for key in keys if isinstance(here[key], dict | list)]
    if not places or rng.random() < 0.02:
        return None, None
    return places[rng.integers(len(places))]


def _pick(rng, options):
    return options[rng.integers(len(options))]


def mutate_bytes(rng, content, where=None):
    """Return the content with one change among its first `where` bytes, and what was changed."""
    at = int(rng.integers(max(1, min(len(content), where or len(content)))))
    kind = rng.integers(7)
    if kind == 0:
        return content[:at], f"cut at {at}"
    if kind == 1:
        bit = 1 << int(rng.integers(8))
        flipped = bytes([content[at] ^ bit]) if content else b""
        return content[:at] + flipped + content[at + 1 :], f"bit {bit} of byte {at}"
    if kind == 2:
        return content[:at] + b"\xff" + content[at:], f"0xff at {at}"
    if kind == 3:
        return content[:at] + content[at + int(rng.integers(1, 9)) :], f"bytes gone at {at}"
    if kind == 4:
        piece = content[at : at + int(rng.integers(1, 40))]
        return content[:at] + piece + content[at:], f"{piece[:40]!r} twice at {at}"
    if kind == 5:
        return b"\xef\xbb\xbf" + content, "byte order mark"
    return content[:at] + bytes(8) + content[at + 8 :], f"zeros at {at}"


def dump(value):
    """Write JSON as Python does: with NaN and lone surrogates."""
    return json.dumps(value, indent=1).encode()


def without_repeated_keys(pairs):
    assert len(dict(pairs)) == len(pairs), "a key is there twice"
    return dict(pairs)


def parse(content):
    """Parse strictly, by other code than the package's; AssertionError or ValueError if damaged."""
    text = content.decode().removeprefix("\ufeff")
    return json.loads(text, object_pairs_hook=without_repeated_keys)


def tensors_in(path):
    """Read a safetensors file by its format: length, JSON header, values."""
    content = path.read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    kinds = {"F32": np.float32, "F16": np.float16}
    found = {}
    for name, about in header.items():
        if name == "__metadata__":
            continue
        start, stop = about["data_offsets"]
        raw = data[start:stop]
        if about["dtype"] == "BF16":
            values = (np.frombuffer(raw, "<u2").astype(np.uint32) << 16).view(np.float32)
        else:
            values = np.frombuffer(raw, kinds[about["dtype"]]).astype(np.float32)
        found[name] = values.reshape(about["shape"])
    return found
