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
    with pytest.raises(ValueError, match="options must be at most answers, 4, not 5"):
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


WINOGRANDE = [
    # sentence with a blank, the words that fill it
    ("He fries in olive oil, never in nut oil, since the _ is lighter.", "olive oil", "nut oil"),
    ("He fries in olive oil, never in nut oil, since _ is lighter.", "olive oil", "nut oil"),
    ("Open book exams suit Kay, closed book exams Lee, for the _ need notes.",
     "open book exams", "closed book exams"),
    ("The push-up beats the pull-up because the _ needs no bar.", "push-up", "pull-up"),
    ("Of a bread knife and a fish knife the guest chose the _.", "bread knife", "fish knife"),
    ("The jar was light and the tub was heavy since the _ was full.", "jar", "tub"),
    ("Ann was early but Bob was not because _ was asleep.", "Ann", "Bob"),
    ("The rules at home and the laws at sea differ: the _ at sea are old.", "rules", "laws"),
    ("The red mug and the blue cup broke; the _ fell first.", "red mug", "blue cup"),
]  # fmt: skip
HELLASWAG = [
    # context, endings
    ("How to clean oak. Wipe the oak until it is clean.",
     ["Follow the grain.", ". Wipe it dry.", "Have a rag at hand.", "After that, rest."]),
    ("Home and Garden: How to wax a floor. Use little wax.",
     ["If it dries, wait.", "If it shines, stop.", "If you slip, sit.", "If in doubt, ask."]),
    ('How to add friends. Open the menu and select " add friends. "',
     ["then wait.", "below it is a list.", "tap it.", "a window opens."]),
    ("A man sits on a roof. he", ["is asleep.", "is singing.", "is up there.", "is told to go."]),
    ("Sailing: Two men sail. The men", ["are wet.", "are happy.", "are out.", "are tired."]),
    ("A boy runs. the boy", ["jumps.", "is tired.", "then stops.", "falls."]),
    ("A dog swims. then", [", it barks.", "it barks.", "there is a cat.", "he runs."]),
]  # fmt: skip


def filled(sentence, *fills):
    """As OLMES does: the text after the blank follows a space, stripped."""
    before, _, after = sentence.partition("_")
    return [before + fill for fill in fills], [f" {after.strip()}"] * len(fills)


@pytest.mark.parametrize(
    ("benchmark", "contexts", "continuations"),
    [
        *(("winogrande", *filled(*row)) for row in WINOGRANDE),
        *(("hellaswag", [c] * 4, [f" {e}".replace(" .", ".") for e in ends])
          for c, ends in HELLASWAG),
    ],
)  # fmt: skip
def test_words_that_all_choices_share_are_on_the_side_where_the_benchmark_has_them(
    tmp_path, benchmark, contexts, continuations
):
    texts = [a + b for a, b in zip(contexts, continuations, strict=True)]
    path = write(tmp_path / "q.parquet", [(texts, 0, benchmark, 1)])
    (question,) = ParquetQuestions([path]).questions(1, np.random.default_rng(0))
    assert question.contexts == tuple(contexts)
    assert question.continuations == tuple(continuations)


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
