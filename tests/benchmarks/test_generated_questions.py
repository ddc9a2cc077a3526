from collections import Counter

import numpy as np
import pandas as pd
import pytest

from ttoaa.benchmarks.generated_questions import GeneratedQuestions
from ttoaa.benchmarks.readers import ParquetQuestions
from ttoaa.statistics.bootstrap import keyed_rng


def test_generated_questions_are_distinct_balanced_and_tell_nothing():
    questions = GeneratedQuestions(answers=8).questions(320, keyed_rng("a"))
    assert len(questions) == 320
    assert Counter(q.benchmark for q in questions) == dict.fromkeys(
        ("capital", "founder", "language", "river"), 80
    )
    assert len({q.contexts[0] for q in questions}) == 320
    assert len({q.id for q in questions}) == 320
    for relation in ("capital", "river"):
        mine = [q for q in questions if q.benchmark == relation]
        golds = Counter(q.continuations[q.label] for q in mine)
        assert set(golds.values()) == {10} and len(golds) == 8
        assert set(Counter(q.label for q in mine).values()) == {20}
        wrong = {c for q in mine for k, c in enumerate(q.continuations) if k != q.label}
        assert wrong == set(golds)
    for q in questions:
        assert len(set(q.continuations)) == 4 and len(set(q.contexts)) == 1
        assert {len(c) for c in q.continuations} == {5} and q.continuations[0][0] == " "


def test_generated_questions_depend_on_their_stream_alone():
    source = GeneratedQuestions()
    assert source.questions(40, keyed_rng("a")) == source.questions(40, keyed_rng("a"))
    assert source.questions(40, keyed_rng("a")) != source.questions(40, keyed_rng("b"))


def test_generator_says_what_is_wrong():
    with pytest.raises(ValueError, match="options <= answers"):
        GeneratedQuestions(options=5, answers=4)
    with pytest.raises(ValueError, match="template"):
        GeneratedQuestions(template="The {relation}")
    with pytest.raises(ValueError, match="raise subject_syllables"):
        GeneratedQuestions(subject_syllables=1).questions(100, keyed_rng("a"))


def write(path, rows):
    columns = ["options", "label", "benchmark", "question-id"]
    pd.DataFrame(rows, columns=columns).to_parquet(path)
    return str(path)


@pytest.mark.parametrize(
    ("benchmark", "options", "contexts", "continuations"),
    [
        ("mmlu", ["Question: q\nAnswer: an ox", "Question: q\nAnswer: an ant"],
         ["Question: q\nAnswer:"] * 2, [" an ox", " an ant"]),
        ("piqa", ["Question: q\nSolution: do", "Question: q\nSolution: do not"],
         ["Question: q\nSolution:"] * 2, [" do", " do not"]),
        ("hellaswag", ["A man sat down", "A man sat upright"], ["A man sat"] * 2,
         [" down", " upright"]),
        ("hellaswag", ["A man sat", "A man sat there"], ["A man"] * 2, [" sat", " sat there"]),
        ("winogrande", ["So Adam saw that Liam won.", "So Adam saw that Miriam won."],
         ["So Adam saw that Liam", "So Adam saw that Miriam"], [" won.", " won."]),
        ("winogrande", ["It was Ann.", "It was Bob."], ["It was Ann", "It was Bob"], [".", "."]),
    ],
)  # fmt: skip
def test_parquet_choices_are_split_where_they_are_scored(
    tmp_path, benchmark, options, contexts, continuations
):
    path = write(tmp_path / "q.parquet", [(options, 1, benchmark, 7)])
    (question,) = ParquetQuestions([path]).questions(1, np.random.default_rng(0))
    assert question.contexts == tuple(contexts)
    assert question.continuations == tuple(continuations)
    assert (question.id, question.benchmark, question.label) == (f"{benchmark}-7", benchmark, 1)


def test_parquet_reads_all_files_and_says_what_is_wrong(tmp_path):
    rng = np.random.default_rng(0)
    first = write(tmp_path / "a.parquet", [(["q\nAnswer: a", "q\nAnswer: b"], 0, "x", 1)])
    second = write(tmp_path / "b.parquet", [(["q" * 90 + " a", "q" * 90 + " b"], 0, "x", 2)])
    assert len(ParquetQuestions([first, second]).questions(2, rng)) == 2
    assert len(ParquetQuestions([first, second], max_characters=50).questions(1, rng)) == 1
    with pytest.raises(ValueError, match="2 questions are needed, but ParquetQuestions has only 1"):
        ParquetQuestions([first]).questions(2, rng)
    with pytest.raises(ValueError, match="no file"):
        ParquetQuestions([str(tmp_path / "none")]).questions(1, rng)
    pd.DataFrame({"label": [0]}).to_parquet(tmp_path / "c.parquet")
    with pytest.raises(ValueError, match="no column 'options'"):
        ParquetQuestions([str(tmp_path / "c.parquet")]).questions(1, rng)
    bad = write(tmp_path / "d.parquet", [(["q\nAnswer: a", "q\nAnswer: b"], 2, "x", 3)])
    with pytest.raises(ValueError, match="question x-3 has 2 options and label 2"):
        ParquetQuestions([bad]).questions(1, rng)
    bad = write(tmp_path / "e.parquet", [(["q\nAnswer:", "q\nAnswer: b"], 0, "x", 4)])
    with pytest.raises(ValueError, match="question x-4 has an empty option"):
        ParquetQuestions([bad]).questions(1, rng)
    bad = write(tmp_path / "f.parquet", [(["q\nAnswer: a", None], 0, "x", 5)])
    with pytest.raises(ValueError, match="question x-5 has an option that is not a text"):
        ParquetQuestions([bad]).questions(1, rng)
