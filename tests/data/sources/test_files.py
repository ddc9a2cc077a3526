"""Every kind of file, whole and damaged, here and at a URL; TFDS datasets that the tests build."""

import gzip
import importlib
import importlib.resources
import json
import os
import pathlib
import subprocess
import sys

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python import array_record_module

from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.tfds_dataset import TfdsDataset

TEXTS = [f"döc {k} ☃ " * (1 + k % 7) for k in range(3000)]


def texts(*paths, **options):
    return [text for _, text in all_documents(TextFiles([str(path) for path in paths], **options))]


def jsonl(field="text"):
    return "".join(json.dumps({"id": k, field: t}) + "\n" for k, t in enumerate(TEXTS)).encode()


def zstd(content):
    return pa.Codec("zstd").compress(content, asbytes=True)


def write_table(path, values, kind, **options):
    table = pa.table({"id": np.arange(len(values)), "text": pa.array(values, kind)})
    pq.write_table(table, path, row_group_size=700, **options)
    return path


def write_records(path, records):
    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()
    return path


@pytest.mark.parametrize(
    "name", ["a.jsonl", "a.jsonl.gz", "a.json.gz", "a.jsonl.zst", "a.json.zst"]
)
def test_json_lines(tmp_path, name):
    pack = {"gz": gzip.compress, "st": zstd, "nl": bytes}[name[-2:]]
    (tmp_path / name).write_bytes(pack(jsonl()))
    assert texts(tmp_path / name) == texts(tmp_path) == TEXTS


@pytest.mark.parametrize(
    "name", ["a.txt", "a.md", "a.jsonl", "a.jsonl.gz", "a.parquet", "a.array_record"]
)
@pytest.mark.parametrize("undecodable", ["error", "replace"])
def test_a_byte_order_mark_is_not_a_part_of_the_text(tmp_path, name, undecodable):
    """At the start of a file, and of a text that was read from one."""
    path = tmp_path / name
    marked, line = "\ufeffone\n", json.dumps({"text": "\ufeffone\n"})
    if name.endswith(".parquet"):
        write_table(path, [marked], pa.string())
    elif name.endswith("_record"):
        write_records(path, [marked.encode()])
    elif "jsonl" in name:
        content = f"\ufeff{line}\n{line}\n".encode()
        path.write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    else:
        path.write_bytes(marked.encode())
    assert set(texts(path, records="text", undecodable=undecodable)) == {"one\n"}


def test_a_zst_file_of_several_frames_is_read_to_its_end(tmp_path):
    halves = jsonl()[:70_000], jsonl()[70_000:]
    (tmp_path / "a.jsonl.zst").write_bytes(b"".join(map(zstd, halves)))
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())]
)
def test_a_parquet_column(tmp_path, kind):
    values = [text.encode() for text in TEXTS] if kind == pa.binary() else TEXTS
    write_table(tmp_path / "a.parquet", values, kind, compression="zstd")
    assert texts(tmp_path) == TEXTS


@pytest.mark.parametrize("kind", ["text", "json", "example"])
def test_array_records(tmp_path, kind):
    records = [text.encode() for text in TEXTS]
    if kind == "json":
        records = jsonl("body").splitlines()
    if kind == "example":
        from tensorflow_datasets.proto import tf_example_pb2

        examples = [tf_example_pb2.Example() for _ in TEXTS]
        for example, text in zip(examples, TEXTS, strict=True):
            example.features.feature["body"].bytes_list.value.append(text.encode())
        records = [example.SerializeToString() for example in examples]
    write_records(tmp_path / "a.array_record", records)
    assert texts(tmp_path, field="body", records=kind) == TEXTS
    if kind != "text":
        with pytest.raises(ValueError, match=r"a\.array_record:1 has no 'text': set TextFiles"):
            texts(tmp_path, records=kind)


def test_a_mixed_folder_is_read_in_order_of_name(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / "b.jsonl.zst").write_bytes(zstd(b'{"text": "lines"}\n'))
    write_table(tmp_path / "c.parquet", ["one", "two"], pa.string())
    write_records(tmp_path / "sub" / "d.array_record", [b"record"])
    assert texts(tmp_path, records="text") == ["plain", "lines", "one", "two", "record"]


def test_what_is_passed_over_is_told(tmp_path):
    for name in ("a.txt", "b.csv", "c.jsonl.bz2", ".d.csv", ".e/f.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("text")
    source = TextFiles([str(tmp_path), str(tmp_path / "a.txt")])
    assert source.skipped() == [f"{tmp_path}/b.csv", f"{tmp_path}/c.jsonl.bz2"]


def test_a_folder_at_a_url_is_read_as_the_same_one_here(tmp_path):
    system = fsspec.filesystem("memory")
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.txt").write_text("plain")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "sub" / "b.jsonl.zst").write_bytes(zstd(jsonl()))
    write_table(tmp_path / "sub" / "c.parquet", TEXTS, pa.string())
    write_records(tmp_path / "sub" / "d.array_record", [b"record"])
    system.put(str(tmp_path), "/bucket/text", recursive=True)
    for url in ("memory://bucket/text", "memory://bucket/text/"):
        assert texts(url, records="text") == texts(tmp_path, records="text")
    source = TextFiles(["memory://bucket/text/sub/b.jsonl.zst"])
    assert next(all_documents(source)) == ("memory://bucket/text/sub/b.jsonl.zst:1", TEXTS[0])
    assert TextFiles(["memory://bucket/text"]).units()[0] == "memory://bucket/text/a.txt"
    with pytest.raises(OSError, match="memory://bucket/nowhere does not exist"):
        texts("memory://bucket/nowhere")


def test_what_a_url_needs_is_said(monkeypatch):
    with pytest.raises(ValueError, match="fsspec knows no protocol 'nope'"):
        texts("nope://bucket/a.txt")
    drivers = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(drivers, "gs", raising=False)  # another test may have used it
    monkeypatch.setitem(sys.modules, "gcsfs", None)  # as if not installed
    with pytest.raises(ValueError, match=r"needs a driver: pip install 'ttoaa\[gcs\]'"):
        texts("gs://bucket/a.txt")
    with pytest.raises(OSError, match=r"http://127\.0\.0\.1:9/a\.txt (cannot be|does not)"):
        texts("http://127.0.0.1:9/a.txt")


@pytest.mark.parametrize("cut", [1, 3, 400])
def test_a_zst_file_cut_short_is_named(tmp_path, cut):
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(jsonl())[:-cut])
    with pytest.raises(ValueError, match=r"a\.jsonl\.zst is not a complete zstd file"):
        texts(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.zst", b"no zstd", "is not a complete zstd file"),
        ("a.jsonl.zst", zstd(b'{"text": "caf\xe9"}'), "a.jsonl.zst:1 is not UTF-8 at byte 13"),
        ("a.jsonl", b'["text"]', r'a.jsonl:1 must hold an object, not \["text"\]'),
        ("a.jsonl", b"[" * 100_000, "a.jsonl:1 is damaged: nested too deeply"),
        ("a.jsonl", b'{"body": "", "id": 1}', r"\(--field\) to one of 'body', 'id'"),
        ("a.parquet", b"PAR1 no more", "is not a complete Parquet file"),
        ("a.array_record", b"no records", "is not a complete ArrayRecord file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path, records="text")


def test_bad_columns_are_named(tmp_path):
    write_table(tmp_path / "a.parquet", ["one", None], pa.string())
    with pytest.raises(ValueError, match=r"no column 'body': .*\(--field\) to one of 'id', 'text'"):
        texts(tmp_path, field="body")
    with pytest.raises(ValueError, match=r"a\.parquet:1 has no text in 'id' but .* type int"):
        texts(tmp_path, field="id")
    with pytest.raises(ValueError, match=r"a\.parquet:2 has no text in 'text' but .* NoneType"):
        texts(tmp_path)


def test_what_records_are_is_not_guessed(tmp_path):
    write_records(tmp_path / "a.array_record", [b"one"])
    with pytest.raises(ValueError, match=r"set TextFiles\.records \(--records\) to one of text"):
        texts(tmp_path)
    with pytest.raises(ValueError, match=r"TextFiles\.records must be one of"):
        TextFiles(["a"], records="lines")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Folders of the same TFDS dataset, by file format."""
    sys.modules.setdefault("importlib_resources", importlib.resources)  # see tests/questions
    import tensorflow_datasets as tfds

    class Lines(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"text": tfds.features.Text(), "id": np.int64}
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, manager):
            del manager
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            for number, text in enumerate(TEXTS):
                yield number, {"text": text, "id": number}

    folders = {}
    for file_format in ("array_record", "parquet"):
        root = tmp_path_factory.mktemp(file_format)
        Lines(data_dir=root, file_format=file_format).download_and_prepare()
        folders[file_format] = root / "lines" / "1.0.0"
    return folders


def test_a_tfds_dataset(built, monkeypatch):
    source = TfdsDataset(str(built["array_record"]))
    found = [text for _, text in all_documents(source)]
    assert sorted(found) == sorted(text for text in TEXTS)
    monkeypatch.setattr("ttoaa.data.sources.tfds_dataset._UNIT", 700)
    assert source.units() == ["0-700", "700-1400", "1400-2100", "2100-2800", "2800-3000"]
    assert [text for _, text in all_documents(source)] == found
    name, text = next(source.documents("700-1400"))
    assert name.endswith("1.0.0:train[700]") and text == found[700]


ALONE = """
import sys
from ttoaa.data.sources import TfdsDataset, all_documents
count = sum(1 for _ in all_documents(TfdsDataset(sys.argv[1])))
sys.exit(f"{count} documents, {'tensorflow' in sys.modules}")
"""


def test_tfds_is_read_without_tensorflow(built):
    command = [sys.executable, "-c", ALONE, str(built["array_record"])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "3000 documents, False"


def test_bad_tfds_datasets_are_named(built, tmp_path):
    folder = built["array_record"]
    cases = [
        (TfdsDataset(str(folder.parent)), "is not a TFDS dataset: it has no dataset_info.json"),
        (TfdsDataset(str(folder), split="test"), r"no split 'test': there are \['train'\]"),
        (TfdsDataset(str(folder), field="body"), r"no 'body': there are \['id', 'text'\]"),
        (TfdsDataset(str(folder), field="id"), r"train\[0\] has no text in 'id'"),
        (TfdsDataset("gs://bucket/lines/1.0.0"), "copy the dataset to a local disk first"),
        # What TFDS 4.9.10 writes as Parquet lacks most examples; its own reader says nothing.
        (TfdsDataset(str(built["parquet"])), r"holds [\d,]+ examples of train, its .* says 3,000"),
    ]
    info = json.loads((folder / "dataset_info.json").read_text())
    (tmp_path / "dataset_info.json").write_text(json.dumps({**info, "fileFormat": "tfrecord"}))
    (tmp_path / "features.json").write_bytes((folder / "features.json").read_bytes())
    cases.append((TfdsDataset(str(tmp_path)), "as tfrecord, which has no random access: prepare"))
    for source, message in cases:
        with pytest.raises(ValueError, match=message):
            list(all_documents(source))
    with pytest.raises(ValueError, match=r"has a TFDS dataset \(1\.0\.0/dataset_info\.json\): use"):
        texts(folder.parent)


def test_links_are_followed_and_never_left_out_in_silence(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "b.txt").write_text("linked")
    (tmp_path / "here" / "a.txt").write_text("plain")
    (tmp_path / "here" / "sub").symlink_to(tmp_path / "there")
    assert texts(tmp_path / "here") == ["plain", "linked"]
    dead = tmp_path / "here" / "c.txt"
    dead.symlink_to("nowhere")
    with pytest.raises(FileNotFoundError, match=r"c\.txt"):
        texts(tmp_path / "here")
    dead.unlink()
    (tmp_path / "there" / "up").symlink_to(tmp_path / "there")
    with pytest.raises(ValueError, match="up is a link to a folder that contains it"):
        texts(tmp_path / "here")


def test_a_folder_that_cannot_be_listed_is_an_error(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.txt").write_text("plain")
    scandir = os.scandir

    def refuse(path):  # root may list everything, so no mode of the folder would do
        if pathlib.Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(PermissionError, match="closed"):
        texts(tmp_path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_what_is_not_utf8_in_a_parquet_column_of_strings(tmp_path, kind):
    stored = pa.array(
        [b"one", b"caf\xe9"], pa.large_binary() if kind != pa.string() else pa.binary()
    )
    column = pa.Array.from_buffers(kind, 2, stored.buffers())  # Arrow does not look inside
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"a\.parquet:2 is not UTF-8 at byte 3: convert it"):
        texts(tmp_path)
    assert texts(tmp_path, undecodable="replace") == ["one", "caf\ufffd"]
