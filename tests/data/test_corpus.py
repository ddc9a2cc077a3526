import hashlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ttoaa.data.corpus import Corpus, Manifest, Shard
from ttoaa.data.vocabulary import TrainBPE

SIZES = {"train": [103, 40, 7, 64], "reserve": [33, 50]}


def write(folder, dtype="uint16"):
    """A corpus by hand: returns its token arrays."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    content = TrainBPE(300, reserved=10).make(["some text"])
    (folder / "tokenizer.json").write_bytes(content)
    arrays, shards = {}, []
    for split, sizes in SIZES.items():
        arrays[split] = [rng.integers(0, 290, size) for size in sizes]
        for k, array in enumerate(arrays[split]):
            raw = array.astype("<u2" if dtype == "uint16" else "<u4").tobytes()
            (folder / f"{split}-{k:05d}.bin").write_bytes(raw)
            digest = hashlib.sha256(raw).hexdigest()
            shards.append(Shard(f"{split}-{k:05d}.bin", split, len(array), 1, digest))
    manifest = Manifest(
        version=1,
        dtype=dtype,
        vocab_size=300,
        vocabulary=hashlib.sha256(content).hexdigest(),
        eos_id=0,
        reserved_ids=(290, 300),
        documents={"train": 4, "reserve": 2},
        source="by hand",
        text="",
        config={},
        shards=tuple(shards),
    )
    (folder / "manifest.json").write_bytes(manifest.to_bytes())
    return arrays


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("length", [1, 8, 33, 64])
def test_windows_are_the_shards_cut_by_length(tmp_path, dtype, length):
    arrays = write(tmp_path / "c", dtype)
    corpus = Corpus.open(tmp_path / "c")
    for split in SIZES:
        expected = [
            array[k : k + length]
            for array in arrays[split]
            for k in range(0, len(array) - length + 1, length)
        ]
        assert corpus.num_windows(split, length) == len(expected)
        order = np.random.default_rng(1).integers(0, len(expected), 50) if expected else []
        tokens = corpus.windows(split, np.array(order, np.int64), length)
        assert tokens.dtype == np.int32 and tokens.shape == (len(order), length)
        for row, index in zip(tokens, order, strict=True):
            np.testing.assert_array_equal(row, expected[index])


def test_windows_are_fresh_and_writable(tmp_path):
    write(tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    first = corpus.windows("train", np.array([2]), 8)
    kept = first.copy()
    first[:] = -1
    np.testing.assert_array_equal(corpus.windows("train", np.array([2]), 8), kept)


@pytest.mark.parametrize("length", [8, 64])
def test_many_windows_are_read_as_one_by_one(tmp_path, length):
    """Rows of one shard are taken at once where there are many of them."""
    write(tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    total = corpus.num_windows("train", length)
    order = np.random.default_rng(2).integers(0, total, 3_000)
    alone = np.concatenate([corpus.windows("train", order[k : k + 1], length) for k in range(3000)])
    np.testing.assert_array_equal(corpus.windows("train", order, length), alone)


def test_windows_are_written_into_rows_of_a_batch(tmp_path):
    write(tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    tokens = np.full((5, 8), -1, np.int32)
    corpus.write_windows("reserve", np.array([9, 0]), tokens, np.array([3, 1]))
    expected = corpus.windows("reserve", np.array([0, 9]), 8)
    np.testing.assert_array_equal(tokens[[1, 3]], expected)
    assert (tokens[[0, 2, 4]] == -1).all()
    corpus.write_windows("reserve", np.empty(0), tokens, np.empty(0))
    with pytest.raises(ValueError, match="there are 10 of 8 tokens"):
        corpus.write_windows("reserve", np.array([10]), tokens, np.array([0]))


@pytest.mark.parametrize("index", [-1, 3])
def test_a_window_out_of_range_is_an_error(tmp_path, index):
    write(tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    assert corpus.num_windows("reserve", 20) == 3
    with pytest.raises(ValueError, match="there are 3 of 20 tokens"):
        corpus.windows("reserve", np.array([0, index]), 20)


def test_pickled_by_path(tmp_path):
    write(tmp_path / "c")
    corpus = Corpus.open(tmp_path / "c")
    tokens = corpus.windows("train", np.arange(5), 8)
    blob = pickle.dumps(corpus)
    assert len(blob) < 500
    again = pickle.loads(blob)
    np.testing.assert_array_equal(again.windows("train", np.arange(5), 8), tokens)
    assert again.fingerprint == corpus.fingerprint
    assert again.tokenizer.eos_id == corpus.eos_id == 0
    assert again.tokenizer.vocab_size == corpus.vocab_size == 300


def test_the_fingerprint_is_the_manifests(tmp_path):
    write(tmp_path / "c")
    content = (tmp_path / "c" / "manifest.json").read_bytes()
    assert Corpus.open(tmp_path / "c").fingerprint == hashlib.sha256(content).hexdigest()
    assert Manifest.from_bytes(content).to_bytes() == content


def test_a_missing_corpus_says_what_to_run(tmp_path):
    with pytest.raises(ValueError, match=r"no finished corpus in .*: run python -m ttoaa.prepare"):
        Corpus.open(tmp_path)


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("train-00001.bin", flip_a_bit, "train-00001.bin is damaged"),
        ("reserve-00000.bin", lambda path: path.write_bytes(b"1234"), "00000.bin has 4 bytes"),
        ("train-00003.bin", lambda path: path.unlink(), "train-00003.bin is missing"),
        ("tokenizer.json", flip_a_bit, "tokenizer.json differs from the tokenizer"),
        ("manifest.json", lambda path: path.write_text("{}"), "manifest.json is not a corpus"),
        ("manifest.json", lambda path: path.write_text("[1"), "manifest.json is not a corpus"),
    ],
)
def test_damage_is_named(tmp_path, name, damage, message):
    write(tmp_path / "c")
    damage(tmp_path / "c" / name)
    with pytest.raises(ValueError, match=message):
        Corpus.open(tmp_path / "c")


def test_an_unknown_split_is_refused(tmp_path):
    write(tmp_path / "c")
    with pytest.raises(ValueError, match="split must be one of"):
        Corpus.open(tmp_path / "c").num_windows("test", 8)


LIMITED = """
import pathlib, resource, sys
import numpy as np
from ttoaa.data.corpus import TokenFile, Windows

folder = pathlib.Path(sys.argv[1])
files = [TokenFile(folder / str(k), 0, 4) for k in range(100)]
for k, file in enumerate(files):
    (4 * k + np.arange(4, dtype="<u2")).tofile(file.path)
resource.setrlimit(resource.RLIMIT_NOFILE, (40, int(sys.argv[2])))
try:
    print(Windows(files, "uint16", 4).read(np.array([0, 99]))[:, 0].tolist())
    print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("hard", "said"),
    [
        (160, "[0, 396]\n140"),
        (60, "100 token files are mapped at once, and only 60 files may be open: raise the limit"),
    ],
)
def test_more_shards_than_files_may_be_open(tmp_path, hard, said):
    """The limit is raised where it may be, and told where not; in a process of its own."""
    command = [sys.executable, "-c", LIMITED, str(tmp_path), str(hard)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.startswith(said), done.stdout + done.stderr
