"""Includes, lines of bindings, and the header of resolved configs."""

import hashlib
import os
import pathlib

import pytest
import studies

from ttoaa import config
from ttoaa.gin_files import Source, locate, read_gin_files, sources_of, with_header

CONFIGS = pathlib.Path(__file__).parents[1] / "configs"


@pytest.fixture
def tree(tmp_path, monkeypatch):
    """A study with batch 8 next to its file; every other folder has one with batch 4."""
    text = studies.write_gin(tmp_path / "gin", ["/data/text"]).read_text()
    for folder, batch in (("one", 8), ("here", 4), ("one/nested", 4), ("two", 4)):
        path = tmp_path / folder / "part.gin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\nGeometry.batch = {batch}\n")
    (tmp_path / "one/study.gin").write_text("include 'part.gin'\n")
    (tmp_path / "two/study.gin").write_text("include 'part.gin'\n")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path


@pytest.mark.parametrize(
    "files, content, batch",
    [
        (["one/study.gin"], {}, 8),
        (["two/study.gin", "one/study.gin"], {}, 8),
        (["one/study.gin", "two/study.gin"], {}, 4),
        (["one/nested/x.gin"], {"one/nested/x.gin": "include '../study.gin'"}, 8),
        (["two/y.gin"], {"two/y.gin": "include '../one/study.gin'"}, 8),
        (["two/y.gin"], {"two/y.gin": "# include 'part.gin'\n\ninclude '../one/part.gin'"}, 8),
        (["two/y.gin"], {"two/y.gin": "# a page\x0cends\ninclude '../one/part.gin'"}, 8),
        (["two/y.gin"], {"two/y.gin": "include '../one/part.gin'\nGeometry.batch = 6"}, 6),
        (["two/y.gin"], {"two/y.gin": "X = 2\ninclude '../one/part.gin'\nGeometry.batch = %X"}, 2),
        (["two/y.gin"], {"two/y.gin": "Geometry.batch = 6\ninclude '../one/part.gin'"}, 8),
        (
            ["two/z.gin"],
            {"two/z.gin": "include '../one/y.gin'", "one/y.gin": "include 'part.gin'"},
            8,
        ),
    ],
)
@pytest.mark.parametrize("relative", [False, True])
def test_an_include_is_relative_to_its_file(tree, files, content, batch, relative):
    for name, text in content.items():
        (tree / name).write_text(f"{text}\n")
    paths = [os.path.relpath(tree / file) if relative else tree / file for file in files]
    assert config.load(paths)[0].geometry.batch == batch


@pytest.mark.parametrize(
    "content, message",
    [
        ({"one/study.gin": "include 'study.gin'"}, "study.gin includes study.gin"),
        (
            {"one/study.gin": "include 'b.gin'", "one/b.gin": "include '../one/study.gin'"},
            "circular include: study.gin includes b.gin includes study.gin",
        ),
        ({"one/study.gin": "\ninclude '../here/no.gin'"}, "study.gin:2 includes '../here/no.gin'"),
        ({"one/study.gin": "include 'one/part.gin'"}, "includes 'one/part.gin', which is neither"),
        ({"one/part.gin": "\n\nGeometry.bath = 3"}, "named 'bath': did you mean batch?"),
        ({"one/part.gin": "\n\nGeometry.bath = 3"}, 'part.gin", line 3'),
        ({"one/part.gin": "Geometri.batch = 3"}, "matching 'Geometri': did you mean Geometry?"),
        ({"one/part.gin": "Geometry.batch = four"}, "'four' is not a value"),
        ({"one/part.gin": ""}, "nothing binds Study.name, Study.prepare"),
        ({"one/part.gin": b"# \xff\n"}, "part.gin is not UTF-8 at byte 2"),
    ],
)
def test_a_bad_file_is_named_in_one_line(tree, content, message):
    for name, text in content.items():
        (tree / name).write_bytes(text if isinstance(text, bytes) else f"{text}\n".encode())
    with pytest.raises(ValueError, match="bad config: ") as error:
        config.load([tree / "one/study.gin"])
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_wrong_value_is_named_with_its_line(tree):
    (tree / "one/more.gin").write_text("include 'part.gin'\n\nGeometry.batch = 0\n")
    with pytest.raises(ValueError, match=r"of at least 1 and at most .*, not 0 \(more\.gin:3\)$"):
        config.load([tree / "one/more.gin"])


def test_shipped_configs_are_found_from_anywhere(tree):
    assert (
        locate("quickstart.gin") == locate("configs/quickstart.gin") == CONFIGS / "quickstart.gin"
    )
    assert locate("configs/sizes/olmo2-2.7b.gin") == CONFIGS / "sizes/olmo2-2.7b.gin"
    assert locate("nothing.gin") is None
    fork = tree / "fork.gin"
    fork.write_text("include 'quickstart.gin'\nGeometry.steps = 321\n")
    assert config.load([fork])[0].geometry.steps == 321
    (tree / "quickstart.gin").write_text("include 'one/part.gin'\n")
    fork.write_text("include 'quickstart.gin'\n")
    assert config.load([fork])[0].geometry.batch == 8, "the file next to it comes first"


def test_a_fork_may_drop_experiments(tree):
    fork = tree / "fork.gin"
    fork.write_text("include 'quickstart.gin'\nStudy.experiments = [@Forgetting()]\n")
    assert len(config.load([fork])[0].experiments) == 1
    fork.write_text("include 'quickstart.gin'\nStudy.experiments = []\nerly/Canaries.spare = 2\n")
    with pytest.raises(ValueError, match=r"binding of erly/Canaries\.spare \(fork\.gin:3\)"):
        config.load([fork])


def test_a_resolved_config_names_its_sources(tree):
    study = tree / "two/y.gin"
    study.write_text("include '../one/part.gin'\n")
    text = config.load([study])[1]
    saved = tree / "config.gin"
    saved.write_text(text)
    wanted = [
        Source(name, hashlib.sha256(path.read_bytes()).hexdigest())
        for name, path in (("y.gin", study), ("../one/part.gin", tree / "one/part.gin"))
    ]
    assert sources_of(saved) == wanted
    again, text_again = config.load([saved])
    assert text_again == text and again == config.load([study])[0]
    assert [source.path for source in read_gin_files(["quickstart.gin"], []).sources] == [
        "configs/quickstart.gin",
        "configs/all_ten.gin",
        "configs/small.gin",
        "configs/base.gin",
    ]


@pytest.mark.parametrize("damage", ["byte", "half", "empty", "line", "no header", "not UTF-8"])
def test_a_damaged_resolved_config_is_refused(tree, damage):
    saved = tree / "config.gin"
    text = config.load([tree / "one/study.gin"])[1]
    changed = {
        "byte": text.replace("Geometry.batch = 8", "Geometry.batch = 6"),
        "half": text[: len(text) // 2],
        "empty": "",
        "line": "\n".join(text.splitlines()[:-1]),
        "no header": text.partition("\n")[2],
        "not UTF-8": text + "\udcff",
    }[damage]
    assert changed != text
    saved.write_bytes(changed.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"config\.gin is ") as error:
        sources_of(saved)
    assert "\n" not in str(error.value)


def test_a_header_is_verified():
    assert with_header("A.b = 1\n", [Source("x.gin", "0" * 64)]).count("\n") == 3
