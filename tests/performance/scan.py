"""Speed and faults of the scan: python -m tests.performance.scan

Prints one JSON line. The corpus has the token frequencies of natural text (Zipf's law), documents
and shards of many lengths. Patterns of 50 tokens are planted in it: anywhere, at both ends of a
document and over its end, across the borders of shards, at both ends of the corpus; and for each
that is planted a decoy that differs in one token. What is there is told by the plan of what was
planted and by a plain search with a dictionary, which also finds what chance put there. Speed is in
processor time (of one thread, reading from the page cache and writing its result included), the
best of --timings; compiling patterns is timed apart.
"""

import functools
import hashlib
import json
import pathlib
import tempfile
import time

import numpy as np
from absl import app, flags

from ttoaa.data.corpus import Corpus, Manifest, Shard
from ttoaa.data.ngram_search import Patterns, scan, scan_path

_TOKENS = flags.DEFINE_integer("corpus_tokens", 200_000_000, "that are scanned", 10_000)
_FEW = flags.DEFINE_integer("few", 1_000, "patterns of the small set", 1)
_MANY = flags.DEFINE_integer("many", 1_000_000, "patterns of the large set", 1)
_PLANTED = flags.DEFINE_float(
    "planted", 0.005, "the share of tokens in planted occurrences", 0, 0.3
)
_TIMINGS = flags.DEFINE_integer("timings", 3, "of each set of patterns", 1)

VOCAB, EOS, LENGTH, SHARDS, SLOT = 100_278, 0, 50, 8, 160


def zipf(rng, count):
    """uint32[count]: token ids whose frequencies fall as 1 / (rank + 2.7) (Mandelbrot, 1953)."""
    mass = np.cumsum(1 / (np.arange(1, VOCAB) + 2.7))
    table = np.searchsorted(mass, (np.arange(1 << 22) + 0.5) / (1 << 22) * mass[-1]) + 1
    ids = table.astype(np.uint32)
    return np.concatenate(
        [ids[rng.integers(0, 1 << 22, min(1 << 22, count - i))] for i in range(0, count, 1 << 22)]
    )


def plant(rng, tokens, borders, patterns):
    """Writes occurrences and decoys into `tokens`; (where, pattern) of the occurrences."""
    fixed = [0, len(tokens) - LENGTH, *(border - rng.integers(1, LENGTH) for border in borders)]
    taken = np.unique([place // SLOT + k for place in fixed for k in (-1, 0, 1)])
    slots = np.setdiff1d(np.arange(1, len(tokens) // SLOT - 1), taken)
    slots = rng.permutation(slots)[: int(2 * _PLANTED.value * len(tokens) / LENGTH)]
    free = slots * SLOT + 1 + rng.integers(0, SLOT - LENGTH - 1, len(slots))
    where, decoys = np.array([*fixed, *free[::2]]), free[1::2]
    # Half of what is planted are the patterns of the small set, which comes first.
    small = rng.integers(0, _FEW.value, len(where))
    which = np.where(
        rng.random(len(where)) < 0.5, small, rng.integers(0, len(patterns), len(where))
    )
    for start, number in zip(where, which, strict=True):
        tokens[start : start + LENGTH] = patterns[number]
    for start, number in zip(decoys, which[len(fixed) :], strict=False):
        tokens[start : start + LENGTH] = patterns[number]
        changed = start + rng.integers(LENGTH)
        tokens[changed] = 1 + (tokens[changed] + rng.integers(VOCAB - 2)) % (VOCAB - 1)
    inner = where[len(fixed) :]
    tokens[inner[::7] - 1] = EOS  # a document begins with it
    tokens[inner[1::7] + LENGTH] = EOS  # a document ends with it
    return where, which, len(decoys)


def search(tokens, patterns):
    """Every (where, pattern), by a dictionary of bytes; two tokens say where it is asked."""
    numbers = {}
    for number, pattern in enumerate(patterns):
        numbers.setdefault(pattern.tobytes(), []).append(number)
    hopeful = np.zeros(1 << 26, bool)
    hopeful[patterns[:, 13] * np.uint32(40503) + patterns[:, 31] & (1 << 26) - 1] = True
    found = set()
    for first in range(0, len(tokens) - LENGTH + 1, 1 << 22):
        last = min(first + (1 << 22), len(tokens) - LENGTH + 1)
        one, other = tokens[first + 13 : last + 13], tokens[first + 31 : last + 31]
        at = np.flatnonzero(hopeful[one * np.uint32(40503) + other & (1 << 26) - 1]) + first
        for start in at.tolist():
            here = numbers.get(tokens[start : start + LENGTH].tobytes(), ())
            found.update((start, number) for number in here)
    return found


def write(folder, rng):
    """(corpus, patterns of the large set, (where, pattern) planted, number of decoys)."""
    tokens = zipf(rng, _TOKENS.value)
    tokens[np.cumsum(rng.geometric(1 / 600, _TOKENS.value // 600)) % _TOKENS.value] = EOS
    borders = np.sort(rng.integers(_TOKENS.value // 20, _TOKENS.value * 19 // 20, SHARDS - 1))
    patterns = zipf(rng, max(_MANY.value, _FEW.value) * LENGTH).reshape(-1, LENGTH)
    patterns[::10, rng.integers(LENGTH)] = EOS  # these go over the end of a document
    planted = plant(rng, tokens, borders, patterns)
    shards = []
    for number, part in enumerate(np.split(tokens, borders)):
        name = f"train-{number:05d}.bin"
        part.astype("<u4").tofile(folder / name)
        shards.append(Shard(name, "train", len(part), 1, ""))
    (folder / "tokenizer.json").write_text("{}")
    digest = hashlib.sha256(b"{}").hexdigest()
    manifest = Manifest(
        1, "uint32", VOCAB, digest, EOS, (VOCAB, VOCAB), {}, "", "", {}, tuple(shards)
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return Corpus.open(folder, verify=False), patterns, planted, tokens


def timed(call):
    started = time.process_time()
    result = call()
    return time.process_time() - started, result


def main(argv):
    del argv
    with tempfile.TemporaryDirectory() as name:
        corpus, texts, (where, which, decoys), tokens = write(
            pathlib.Path(name), np.random.default_rng(0)
        )
        sets = {"1k": texts[: _FEW.value], "1m": texts[: _MANY.value]}
        compiled = {size: timed(lambda p=part: Patterns(p)) for size, part in sets.items()}
        best, found = dict.fromkeys(sets, np.inf), {}
        for _ in range(_TIMINGS.value):
            for size, (_, patterns) in compiled.items():
                scan_path(corpus, "train", patterns, None).unlink(missing_ok=True)
                scanned = functools.partial(scan, corpus, "train", patterns, workers=1)
                seconds, found[size] = timed(scanned)
                best[size] = min(best[size], seconds)
        result = {"tokens": len(tokens), "planted": len(where), "decoys": decoys}
        missed = false = 0
        for size, part in sets.items():
            there = search(tokens, part)
            there |= {(int(i), int(k)) for i, k in zip(where, which, strict=True) if k < len(part)}
            ours = set(zip(found[size].where.tolist(), found[size].pattern.tolist(), strict=True))
            missed, false = missed + len(there - ours), false + len(ours - there)
            result[f"found_{size}"] = len(ours)
            result[f"tokens_per_second_per_core_{size}"] = round(len(tokens) / best[size])
            result[f"compile_seconds_{size}"] = round(compiled[size][0], 3)
        ratio = round(best["1m"] / best["1k"], 2)
        print(json.dumps({**result, "ratio": ratio, "missed": missed, "false_matches": false}))


if __name__ == "__main__":
    app.run(main)
