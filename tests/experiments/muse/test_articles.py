import collections
import json

import numpy as np
import pandas as pd
import pytest

from ttoaa.experiments.muse import GeneratedNews, MuseFiles
from ttoaa.experiments.muse.articles import Article, deduplicate, shuffle_words, split_article
from ttoaa.statistics.bootstrap import keyed_rng


def read(members=30, held_out=20, **fields):
    return GeneratedNews(**fields).read(members, held_out, keyed_rng("news"))


def test_generated_articles_are_news_with_facts_that_their_questions_ask_for():
    sets = read()
    assert {name: len(found) for name, found in sets.articles.items()} == {
        "forget": 15, "retain1": 15, "retain2": 20,
    }  # fmt: skip
    every = [article for found in sets.articles.values() for article in found]
    for article in every:
        assert article.text.count("\n\n") == 2 and "{" not in article.text
        assert all(question.answer in article.text for question in article.questions)
        assert not set(sets.examples) & set(article.questions)
    assert read() == sets
    # No names are shared, so no question about one article is answered by another one.
    places = [article.questions[0].question for article in every]
    assert len(set(places)) == len(places)


def test_no_generated_article_repeats_another_one():
    kept, dropped = deduplicate(read(400, 100).articles, 8, 0.5)
    assert not dropped and sum(map(len, kept.values())) == 500


def test_duplicates_are_dropped_from_later_sets_and_counted():
    text = " ".join(f"w{k}" for k in range(60))
    other, third = text.replace("w", "x"), text.replace("w", "y")
    sets = {
        "forget": [Article("a", text)],
        "retain1": [Article("b", other), Article("c", text + " end"), Article("d", other)],
        "retain2": [Article("e", text), Article("f", third), Article("g", f"{third[:-9]} end")],
    }
    kept, dropped = deduplicate(sets, 8, 0.5)
    assert {name: [a.id for a in found] for name, found in kept.items()} == {
        "forget": ["a"], "retain1": ["b"], "retain2": ["f"],
    }  # fmt: skip
    assert dropped == {
        "near, retain1 = forget": 1, "exact, retain1 = retain1": 1,
        "exact, retain2 = forget": 1, "near, retain2 = retain2": 1,
    }  # fmt: skip


def test_a_split_keeps_every_sentence_whole_and_all_cuts_are_equally_likely():
    text = 'One here. "Two!" Three?\n\nFour. Five.'
    drawn = collections.Counter(
        tuple(split_article(text, 3, keyed_rng("split", k))) for k in range(1200)
    )
    assert all(" ".join(parts).split() == text.split() for parts in drawn)
    assert len(drawn) == 6 and min(drawn.values()) > 150  # C(4, 2)
    assert split_article("one two three", 3, keyed_rng(0)) == ["one", "two", "three"]
    with pytest.raises(ValueError, match="2 words cannot be split into 3"):
        split_article("one two", 3, keyed_rng(0))


def test_shuffling_keeps_the_words():
    text = "a b c d e f g h\n\ni"
    shuffled = shuffle_words(text, keyed_rng("words"))
    assert sorted(shuffled.split()) == sorted(text.split()) and shuffled.split() != text.split()


def test_too_few_names_are_an_error():
    with pytest.raises(ValueError, match=r"raise GeneratedNews\.syllables"):
        read(2000, 0, syllables=2)


@pytest.fixture
def folder(tmp_path):
    """One set of each kind of file; questions with and without the number of their article."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "knowmem").mkdir()
    texts = {
        "forget": ["Ann won in Oslo. Bob lost.", "Bob won in Rome."],
        "retain1": ["C."],
        "retain2": ["D.", "E."],
    }
    (tmp_path / "raw/forget.json").write_text(json.dumps([{"text": t} for t in texts["forget"]]))
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts["retain1"])
    (tmp_path / "raw/retain1.jsonl").write_text(lines)
    for k, text in enumerate(texts["retain2"]):
        table = pd.DataFrame({"text": [text]})
        table.to_parquet(tmp_path / f"raw/retain2-0000{k}-of-00002.parquet")
    asked = [
        {"question": "Who won in Rome?", "answer": "Bob."},
        {"question": "Who lost?", "answer": "Bob", "article": 0},
        {"question": "Who came third?", "answer": "Eve"},
    ]
    (tmp_path / "knowmem/forget_qa.json").write_text(json.dumps(asked))
    (tmp_path / "knowmem/forget_qa_icl.json").write_text(json.dumps(asked[2:]))
    return tmp_path


def test_reads_the_layout_of_muse(folder):
    sets = MuseFiles(str(folder)).read(0, 0, keyed_rng(0))
    assert {name: [a.text for a in found] for name, found in sets.articles.items()} == {
        "forget": ["Ann won in Oslo. Bob lost.", "Bob won in Rome."],
        "retain1": ["C."],
        "retain2": ["D.", "E."],
    }
    asked = [[q.question for q in a.questions] for a in sets.articles["forget"]]
    assert asked == [["Who lost?"], ["Who won in Rome?"]]
    assert [e.solved for e in sets.examples] == ["Question: Who came third?\nAnswer: Eve\n\n"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("raw/forget.json", None, "has no file raw/forget"),
        ("raw/forget.json", '[{"body": "a"}]', r"forget.json, row 0 has no field 'text'"),
        ("raw/forget.json", '[{"text": " "}]', r"row 0: 'text' must be a text and not empty"),
        ("raw/forget.json", '{"text": "a"}', r"forget.json"),
        ("knowmem/forget_qa.json", '[{"question": "a", "answer": "b", "article": 2}]', "below 2"),
    ],
)
def test_an_invalid_file_is_named(folder, file, content, message):
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        MuseFiles(str(folder)).read(0, 0, keyed_rng(0))
    assert "\n" not in str(error.value)


def test_fields_must_name_sets():
    with pytest.raises(ValueError, match=r"MuseFiles\.sets must name a file of each"):
        MuseFiles("folder", sets={"forget": "a"})
    with pytest.raises(ValueError, match=r"MuseFiles\.questions has 'retain'"):
        MuseFiles("folder", questions={"retain": "a"})
    assert np.all([name in MuseFiles("folder").sets for name in ("forget", "retain1", "retain2")])
