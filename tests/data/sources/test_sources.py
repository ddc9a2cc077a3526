import gzip
import itertools
import json
import pathlib
import sysconfig

import numpy as np
import pytest

from ttoaa.data.sources.base import all_documents, keyed_fraction
from ttoaa.data.sources.embedded import EmbeddedPython
from ttoaa.data.sources.files import TextFiles


def texts(*paths, **options):
    return [text for _, text in all_documents(TextFiles([str(path) for path in paths], **options))]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / ".hidden").mkdir()
    (tmp_path / "b.txt").write_bytes("büch\r\n".encode())
    (tmp_path / "a.md").write_text("# a")
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "image.png").write_bytes(b"\x89")
    (tmp_path / ".hidden" / "x.txt").write_text("hidden")
    (tmp_path / "sub" / "c.py").write_text("c = 1")
    lines = [json.dumps({"text": text}) for text in ("one", "two\nlines", "")]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n\n")
    with gzip.open(tmp_path / "e.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "zipped", "id": 7}))
    return tmp_path


def test_a_folder_is_read_in_order_of_name(folder):
    expected = ["# a", "büch\r\n", "one", "two\nlines", "zipped", "c = 1"]
    assert texts(folder) == expected
    assert texts(folder / "sub", folder / "a.md") == ["c = 1", "# a"]


def test_documents_carry_where_they_come_from(folder):
    names = [name for name, _ in all_documents(TextFiles([str(folder / "d.jsonl")]))]
    assert names == [f"{folder}/d.jsonl:1", f"{folder}/d.jsonl:2"]


def test_a_separator_cuts_plain_files(tmp_path):
    (tmp_path / "poems.txt").write_text("roses\n%\nviolets\n%\n")
    assert texts(tmp_path, separator="\n%\n") == ["roses", "violets"]


def test_long_files_are_cut_at_empty_lines_and_nothing_is_lost(tmp_path):
    rng = np.random.default_rng(0)
    words = rng.choice(
        ["word ", "line\n", "end.\n\n", "x" * 300], size=2000, p=[0.7, 0.2, 0.09, 0.01]
    )
    text = "".join(words)
    (tmp_path / "book.txt").write_text(text)
    pieces = texts(tmp_path, document_characters=1000)
    assert "".join(pieces) == text
    assert all(500 <= len(piece) <= 1000 for piece in pieces[:-1])
    assert np.mean([piece.endswith("\n\n") for piece in pieces[:-1]]) > 0.9
    assert texts(tmp_path, document_characters=None) == [text]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.txt", b"caf\xe9", "x.txt is not UTF-8 at byte 3"),
        ("x.pdf", b"%PDF", "x.pdf has an unknown type: use one of .txt"),
        ("x.jsonl", b'{"text": "a"}\n{"body": "b"}\n', "x.jsonl:2 has no 'text'"),
        ("x.jsonl", b'{"text": "a"}\nbroken\n', "x.jsonl:2 is damaged: Expecting value"),
        ("x.jsonl", b'{"text": 7}\n', "x.jsonl:1 has no text in 'text' but a value of type int"),
        ("x.jsonl.gz", b"no gzip", "x.jsonl.gz is not a complete gzip file"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        texts(tmp_path / name)


@pytest.mark.parametrize("damage", ["cut", "scrambled", "flipped"])
def test_a_damaged_gzip_is_named(tmp_path, damage):
    rng = np.random.default_rng(0)
    lines = [json.dumps({"text": " ".join(map(str, rng.integers(0, 9999, 50)))}) for _ in range(99)]
    content = bytearray(gzip.compress("\n".join(lines).encode()))
    if damage == "cut":
        del content[-2000:]
    elif damage == "scrambled":
        content[10:60] = b"\xff" * 50
    else:
        content[-6] ^= 1  # of the checksum
    (tmp_path / "x.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.jsonl\.gz is not a complete gzip file"):
        texts(tmp_path)


def test_missing_and_empty_inputs_are_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere does not exist"):
        texts(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=f"{tmp_path} has no .txt"):
        texts(tmp_path)


def test_undecodable_bytes_are_replaced_only_on_demand(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"caf\xe9!")
    assert texts(tmp_path, undecodable="replace") == ["caf\N{REPLACEMENT CHARACTER}!"]


def test_embedded_python_is_real_text_within_its_budget():
    source = EmbeddedPython(max_characters=1_000_000)
    documents = list(all_documents(source))
    assert 800_000 < sum(len(text) for _, text in documents) <= 1_000_000
    assert documents == list(all_documents(source))
    root = pathlib.Path(sysconfig.get_path("stdlib"))
    for name, text in documents:
        assert "site-packages" not in name
        assert 200 <= len(text.encode()) <= 200_000 or name.startswith("reference/")
        if not name.startswith("reference/"):
            assert (root / name).read_bytes() == text.encode()


def test_embedded_python_takes_tests_last_and_then_shuffles():
    def is_test(name):
        return "test/" in name or "tests/" in name

    few = [name for name, _ in all_documents(EmbeddedPython(max_characters=1_000_000))]
    assert not any(map(is_test, few))
    assert few != sorted(few)
    more = dict(all_documents(EmbeddedPython(max_characters=2_000_000)))
    assert set(few) < set(more)


def test_keyed_fractions_are_uniform_and_depend_on_the_key():
    words = ["".join(letters) for letters in itertools.product("abcdefgh", repeat=4)]
    one = np.array([keyed_fraction("one", word) for word in words])
    two = np.array([keyed_fraction("two", word) for word in words])
    assert np.histogram(one, bins=8, range=(0, 1))[0].min() > 420  # 512 expected, sd 21
    assert abs(np.corrcoef(one, two)[0, 1]) < 0.07
