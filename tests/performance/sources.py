"""How fast each kind of file is read, beside how fast its text is tokenised: one JSON line.

python -m tests.performance.sources --text=FOLDER --tokenizer=tokenizer.json
"""

import gzip
import json
import pathlib
import tempfile
import time

import pyarrow as pa
import pyarrow.parquet as pq
from absl import app, flags
from array_record.python import array_record_module

from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.mixture import Mixture
from ttoaa.data.tokenizer import Tokenizer

_TEXT = flags.DEFINE_string("text", None, "files of plain text", required=True)
_TOKENIZER = flags.DEFINE_string("tokenizer", None, "a tokenizer file", required=True)
_CHARACTERS = flags.DEFINE_integer("characters", 100_000_000, "how much text a file has")
_REPEATS = flags.DEFINE_integer("repeats", 4, "readings of each, of which the fastest counts")


def main(argv):
    del argv
    plain = TextFiles([_TEXT.value], document_characters=3000, undecodable="replace")
    some = [text for _, text in all_documents(plain)]
    documents = some * (_CHARACTERS.value // sum(map(len, some)) + 1)
    characters = sum(map(len, documents))
    with tempfile.TemporaryDirectory() as folder:
        sources = _write(pathlib.Path(folder), documents)
        seconds = dict.fromkeys(sources, float("inf"))
        for name in list(sources) * _REPEATS.value:
            started = time.perf_counter()
            found = sum(len(text) for _, text in all_documents(sources[name]))
            seconds[name] = min(seconds[name], time.perf_counter() - started)
            assert found == characters
    sample = some[:1000]
    started = time.perf_counter()
    Tokenizer(_TOKENIZER.value, eos_id=0).encode_batch(sample)
    tokenising = sum(map(len, sample)) / (time.perf_counter() - started)
    rates = {name: round(characters / found / 1e6, 1) for name, found in seconds.items()}
    figures = {"reading": rates, "tokenising": round(tokenising / 1e6, 1)}
    print(json.dumps({"million_characters_per_second": figures, "characters": characters}))


def _write(folder, documents):
    """The same documents as every kind of file."""
    lines = "".join(json.dumps({"id": k, "text": t}) + "\n" for k, t in enumerate(documents))
    content = lines.encode()
    (folder / "a.jsonl").write_bytes(content)
    (folder / "a.jsonl.gz").write_bytes(gzip.compress(content, 6))
    (folder / "a.jsonl.zst").write_bytes(pa.Codec("zstd", 3).compress(content, asbytes=True))
    table = pa.table({"text": documents, "other": documents})
    pq.write_table(table, folder / "a.parquet", compression="zstd")
    writer = array_record_module.ArrayRecordWriter(str(folder / "a.array_record"), "group_size:1")
    for document in documents:
        writer.write(document.encode())
    writer.close()
    names = sorted(path.name for path in folder.iterdir())
    sources = {name: TextFiles([str(folder / name)], records="text") for name in names}
    half = len(documents) // 2
    pq.write_table(pa.table({"text": documents[:half]}), folder / "b.parquet")
    pq.write_table(pa.table({"text": documents[half:]}), folder / "c.parquet")
    halves = [TextFiles([str(folder / name)]) for name in ("b.parquet", "c.parquet")]
    return {**sources, "mixture of two Parquet": Mixture(halves, [1, 2], when_one_ends="go on")}


if __name__ == "__main__":
    app.run(main)
