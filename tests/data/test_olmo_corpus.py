"""Corpora of another run's token files and order, against OLMo's published rules by hand."""

import dataclasses
import json
import pathlib
import pickle
import subprocess
import sys

import numpy as np
import pytest

from ttoaa import config
from ttoaa.data.corpus import Corpus
from ttoaa.data.geometry import Geometry
from ttoaa.data.loader import batches
from ttoaa.data.olmo_corpus import OlmoCorpus
from ttoaa.data.order import Order, training_order
from ttoaa.data.vocabulary import ExistingTokenizer, TrainBPE

LENGTH, EOS = 16, 0
SIZES = [16 * 40 + 3, 15, 16 * 7, 16 * 21 + 15]  # 40 + 0 + 7 + 21 instances


@dataclasses.dataclass
class Olmo:
    """Token files, their instances as OLMo cuts them, and the order as OLMo shuffles it."""

    config: OlmoCorpus
    instances: np.ndarray
    order: np.ndarray


def write(path, array, header):
    """As OLMo does, raw, or as np.save does."""
    with open(path, "wb") as file:
        if header:
            np.lib.format.write_array(file, array, version=(1, 0))
        else:
            file.write(array.tobytes())


def make(folder, dtype="uint32", headers=False, **changes):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(5)
    (folder / "tokenizer.json").write_bytes(TrainBPE(300, reserved=10).make(["some text"]))
    files, instances = [], []
    for number, size in enumerate(SIZES):
        tokens = rng.integers(1, 257, size).astype(dtype)
        tokens[rng.integers(0, size, 3)] = EOS
        files.append(str(folder / f"part-{number}-00000.npy"))
        write(files[-1], tokens, headers)
        instances += [tokens[k : k + LENGTH] for k in range(0, size - LENGTH + 1, LENGTH)]
    order = np.arange(len(instances), dtype=np.uint32)
    np.random.Generator(np.random.PCG64(seed=6198)).shuffle(order)
    order = order[:64]  # drop_last, 64 ranks
    write(folder / "global_indices.npy", order, headers)
    tokenizer = ExistingTokenizer(str(folder / "tokenizer.json"))
    fields = {"train_windows": 48, "dtype": dtype, "length": LENGTH, "eos_id": EOS} | changes
    made = OlmoCorpus(files, str(folder / "global_indices.npy"), tokenizer, **fields)
    return Olmo(made, np.array(instances), order)


@pytest.fixture
def olmo(tmp_path):
    return make(tmp_path / "olmo")


@pytest.mark.parametrize("digest", ["sha256", "samples"])
@pytest.mark.parametrize("headers", [False, True])
@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
def test_windows_are_olmos_instances_in_olmos_order(tmp_path, dtype, headers, digest):
    olmo = make(tmp_path / "olmo", dtype, headers, first=8, train_windows=24, digest=digest)
    assert len(olmo.instances) == 68
    corpus = olmo.config.make(tmp_path / "corpus")
    assert corpus.num_windows("train", LENGTH) == 24
    assert corpus.num_windows("reserve", LENGTH) == 64 - 8 - 24
    for split, numbers in (("train", olmo.order[8:32]), ("reserve", olmo.order[32:])):
        tokens = corpus.windows(split, np.arange(len(numbers)), LENGTH)
        assert tokens.dtype == np.int32
        np.testing.assert_array_equal(tokens, olmo.instances[numbers])
        some = np.array([3, 0, 3])
        np.testing.assert_array_equal(
            corpus.windows(split, some, LENGTH), olmo.instances[numbers[some]]
        )
        with pytest.raises(ValueError, match=f"there are {len(numbers)} of 16"):
            corpus.windows(split, np.array([len(numbers)]), LENGTH)


def test_a_run_goes_on_batch_by_batch_as_olmo_would(olmo, tmp_path):
    """OLMo's batch k is order[k B : k B + B], whichever rank has which row of it."""
    corpus = dataclasses.replace(olmo.config, first=3 * 8, train_windows=40).make(tmp_path / "c")
    order = training_order(corpus, 7, LENGTH)
    assert order == Order(7, 40, first_in_order=True)
    loaded = batches(corpus, order, Geometry(LENGTH, 8, 9))
    for k, batch in enumerate(loaded):
        if k < 5:
            expected = olmo.instances[olmo.order[(3 + k) * 8 : (4 + k) * 8]]
            np.testing.assert_array_equal(batch["tokens"], expected)
    rows = np.concatenate([b["tokens"] for b in batches(corpus, order, Geometry(LENGTH, 8, 15))])
    seen = sorted(map(bytes, olmo.instances[olmo.order[24:64]].astype(np.int32)))
    for epoch in range(3):  # the same windows in every epoch, the reserve in none
        assert sorted(map(bytes, rows[40 * epoch : 40 * epoch + 40])) == seen
    assert not np.array_equal(rows[40:80], rows[80:])


def test_nothing_is_copied_but_the_tokenizer(olmo, tmp_path):
    corpus = olmo.config.make(tmp_path / "corpus")
    assert {p.name for p in corpus.folder.iterdir()} == {"manifest.json", "tokenizer.json"}
    manifest = json.loads((corpus.folder / "manifest.json").read_text())
    assert [shard["name"] for shard in manifest["shards"]] == list(olmo.config.files)
    assert [shard["tokens"] for shard in manifest["shards"]] == SIZES
    eos = sum(int((np.fromfile(name, "<u4") == EOS).sum()) for name in olmo.config.files)
    assert manifest["documents"] == {"all": eos}
    assert corpus.describe() == "48 train and 16 reserve windows of 16 tokens"
    assert corpus.tokenizer.eos_id == EOS and corpus.vocab_size == 384
    again = pickle.loads(pickle.dumps(corpus))
    np.testing.assert_array_equal(
        again.windows("reserve", np.arange(16), LENGTH), olmo.instances[olmo.order[48:]]
    )


def test_other_window_lengths_are_refused(olmo, tmp_path):
    corpus = olmo.config.make(tmp_path / "corpus")
    for ask in (corpus.num_windows, lambda s, n: corpus.windows(s, np.array([0]), n)):
        with pytest.raises(ValueError, match=r"windows of 16 tokens.*set Geometry.length to"):
            ask("train", 8)


def test_a_list_file_names_the_files_in_order(olmo, tmp_path):
    lines = ["# OLMo's", *(name.rsplit("/", 1)[1] for name in olmo.config.files), ""]
    (tmp_path / "olmo" / "files.txt").write_text("\n".join(lines), "utf-8-sig")
    listed = dataclasses.replace(olmo.config, files=[str(tmp_path / "olmo" / "files.txt")])
    np.testing.assert_array_equal(
        listed.make(tmp_path / "corpus").windows("train", np.arange(48), LENGTH),
        olmo.instances[olmo.order[:48]],
    )


def test_made_once_and_of_one_config(olmo, tmp_path):
    made = olmo.config.make(tmp_path / "corpus")
    before = {p: p.stat().st_mtime_ns for p in made.folder.iterdir()}
    assert olmo.config.make(tmp_path / "corpus").fingerprint == made.fingerprint
    assert {p: p.stat().st_mtime_ns for p in made.folder.iterdir()} == before
    with pytest.raises(ValueError, match="made with first 0, now it would be 4"):
        dataclasses.replace(olmo.config, first=4).make(tmp_path / "corpus")


def test_every_field_and_file_is_part_of_the_fingerprint(tmp_path):
    olmo = make(tmp_path / "olmo")
    changes = [{}, {"first": 1}, {"train_windows": 47}, {"digest": "samples"}]
    prints = [
        dataclasses.replace(olmo.config, **change).make(tmp_path / f"c{number}").fingerprint
        for number, change in enumerate(changes)
    ]
    order = np.fromfile(olmo.config.order, "<u4")
    order[[0, 1]] = order[[1, 0]]
    order.tofile(olmo.config.order)
    prints.append(olmo.config.make(tmp_path / "swapped").fingerprint)
    assert len(set(prints)) == 5


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("digest", ["sha256", "samples"])
@pytest.mark.parametrize("name", ["part-2-00000.npy", "global_indices.npy"])
def test_a_file_that_changed_is_named(tmp_path, name, digest):
    olmo = make(tmp_path / "olmo", digest=digest)
    olmo.config.make(tmp_path / "corpus")
    flip(tmp_path / "olmo" / name)
    with pytest.raises(ValueError, match=f"{name} is damaged"):
        Corpus.open(tmp_path / "corpus")
    (tmp_path / "olmo" / name).write_bytes(b"12345678")
    with pytest.raises(ValueError, match=f"{name} has 8 bytes"):
        Corpus.open(tmp_path / "corpus", verify=False)
    (tmp_path / "olmo" / name).unlink()
    with pytest.raises(ValueError, match=f"{name} is missing"):
        Corpus.open(tmp_path / "corpus", verify=False)


def rewrite_order(change):
    def fault(folder):
        order = change(np.fromfile(folder / "global_indices.npy", "<u4").tolist())
        np.array(order, "<u4").tofile(folder / "global_indices.npy")

    return fault


def damage_file(content):
    return lambda folder: (folder / "part-1-00000.npy").write_bytes(content)


def header(array):
    def fault(folder):
        np.save(folder / "part-1-00000.npy", array)

    return fault


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            rewrite_order(lambda o: [*o[:-1], 68]),
            "lists instance 68, but the files have 68 instances of 16",
        ),
        (rewrite_order(lambda o: [*o, *o[:3]]), "lists 3 instances twice"),
        (damage_file(b"123456"), "part-1-00000.npy has 6 bytes"),
        (damage_file(b""), "part-1-00000.npy has 0 bytes"),
        (damage_file(np.full(20, 290, "<u4").tobytes()), r"has the id 290, .* only 2\d\d ids"),
        (header(np.zeros(20, np.int64)), "has int64 of shape"),
        (header(np.zeros((2, 20), np.uint32)), "shape .2, 20."),
        (
            lambda folder: (folder / "global_indices.npy").unlink(),
            "global_indices.npy does not exist",
        ),
    ],
)
def test_what_does_not_fit_together_is_named(tmp_path, fault, message):
    olmo = make(tmp_path / "olmo")
    fault(tmp_path / "olmo")
    with pytest.raises(ValueError, match=message):
        olmo.config.make(tmp_path / "corpus")
    assert not (tmp_path / "corpus" / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"eos_id": 5}, "ends documents with 0, OlmoCorpus.eos_id is 5"),
        ({"first": 64}, "too few for 48 training windows"),
        ({"first": 64, "train_windows": None}, "too few for 1 training windows"),
        ({"train_windows": 65}, "too few for 65 training windows"),
        ({"instances": 69}, "instances is 69, but the files have 68 instances of 16 tokens"),
        (
            {"length": 15},
            "lists no instance after 67, but the files have 73 instances of 15 tokens",
        ),
        ({"length": 17}, "lists instance 67, but the files have 63 instances of 17"),
        ({"files": ["gs://bucket/part-0.npy"]}, "gs://bucket/part-0.npy is not on this machine"),
        ({"files": ["nowhere.npy"]}, "nowhere.npy does not exist"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, change, message):
    changed = dataclasses.replace(make(tmp_path / "olmo").config, **change)
    with pytest.raises(ValueError, match=message):
        changed.make(tmp_path / "corpus")


@pytest.mark.parametrize("dropped", [0, 1, 3, 50])
@pytest.mark.parametrize("length", [63, 64, 65])
def test_only_the_length_of_the_order_is_accepted(olmo, tmp_path, length, dropped):
    """For an order that has all instances, and for ones without a few or most of them."""
    tokens = np.full(64 * 640 + 9, 3, "<u4")
    tokens[::50] = EOS
    tokens.tofile(tmp_path / "part.npy")
    order = np.random.default_rng(dropped).permutation(640).astype("<u4")
    order[: 640 - dropped].tofile(olmo.config.order)
    changes = {"files": [str(tmp_path / "part.npy")], "length": length, "train_windows": 80}
    config = dataclasses.replace(olmo.config, **changes)
    if length == 64:
        assert config.make(tmp_path / "c").num_windows("reserve", 64) == 560 - dropped
        dataclasses.replace(config, instances=640).make(tmp_path / "known")
        return
    for known in (None, 640):
        with pytest.raises(
            ValueError, match=f"but the files have 6.. instances of {length} tokens"
        ):
            dataclasses.replace(config, instances=known).make(tmp_path / "c")


def test_files_of_another_dtype_show_by_their_missing_eos(tmp_path):
    """uint16 files taken for uint32: every id is of two, none of them the EOS."""
    olmo = make(tmp_path / "olmo", "uint16")
    for name in olmo.config.files:
        even = np.full(64, 3, "<u2")
        even.tofile(name)
    np.arange(8, dtype="<u4").tofile(olmo.config.order)
    with pytest.raises(ValueError, match="check the tokenizer and the dtype"):
        dataclasses.replace(olmo.config, dtype="uint32", train_windows=1).make(tmp_path / "c")
    np.arange(16, dtype="<u4").tofile(olmo.config.order)
    with pytest.raises(ValueError, match="ends with id 0"):
        dataclasses.replace(olmo.config, train_windows=1).make(tmp_path / "c")


@pytest.mark.parametrize(
    "change",
    [{"dtype": "int32"}, {"digest": "md5"}, {"length": 1}, {"first": -1}, {"files": ()}],
)
def test_a_bad_field_is_refused_at_once(olmo, change):
    with pytest.raises(ValueError, match=f"OlmoCorpus.*{next(iter(change))}"):
        dataclasses.replace(olmo.config, **change)


def run(*arguments):
    command = [sys.executable, "-m", "ttoaa.interop.olmo.corpus", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_makes_it_and_the_study_remembers(olmo, tmp_path):
    """On the paper's config, whose bindings of Prepare are moot then."""
    folder, workdir = tmp_path / "olmo", f"--workdir={tmp_path / 'study'}"
    paper = pathlib.Path(__file__).parents[2] / "configs" / "paper.gin"
    done = run(
        workdir,
        f"--gin_file={paper}",
        f"--files={','.join(olmo.config.files)}",
        f"--order={folder / 'global_indices.npy'}",
        f"--tokenizer={folder / 'tokenizer.json'}",
        *(f"--eos_id={EOS}", "--dtype=uint32", "--length=16", "--train_windows=48", "--first=2"),
    )
    assert done.returncode == 0, done.stderr
    assert "48 train and 14 reserve windows of 16 tokens" in done.stdout
    corpus = Corpus.open(tmp_path / "study" / "corpus")
    expected = olmo.instances[olmo.order[2:50]]
    np.testing.assert_array_equal(corpus.windows("train", np.arange(48), LENGTH), expected)
    study, _ = config.load([tmp_path / "study" / "config.gin"])
    assert study.prepare == dataclasses.replace(olmo.config, first=2)
    again = run(workdir, "--first=3")
    assert again.returncode == 1 and "made with Prepare.first 2, now it would be 3" in again.stderr
    assert Corpus.open(tmp_path / "study" / "corpus").fingerprint == corpus.fingerprint
