import itertools
from collections import Counter

import numpy as np
import pytest

from ttoaa.benchmarks.related_questions import RelatedQuestions
from ttoaa.statistics.bootstrap import keyed_rng

RELATIONS = ("capital", "founder", "river", "patron")


def related(relation="river", subjects=0.0, answers=0.0, **changes):
    return RelatedQuestions(relation, RELATIONS, subjects, answers, **changes)


def parts(source, count=40):
    """The subject and the right answer of each question."""
    questions = source.questions(count, keyed_rng("unused"))
    return [(q.contexts[0].split()[3], q.continuations[q.label].strip()) for q in questions]


@pytest.mark.parametrize("shares", itertools.product((0.0, 0.25, 1.0), repeat=2))
def test_two_benchmarks_share_what_their_fields_say(shares):
    base = parts(related("capital", 1.0, 0.75))
    subjects, answers = shares
    other = parts(related("river", *shares))
    common = [len({a[k] for a in base} & {b[k] for b in other}) for k in (0, 1)]
    assert common[0] == 40 * subjects and bool(common[1]) == bool(answers)
    assert len(set(base) & set(other)) == 40 * min(subjects, answers, 0.75)
    assert sum(a[1] == b[1] for a, b in zip(base, other, strict=True)) == 40 * min(answers, 0.75)


def test_how_often_names_occur_does_not_help_to_choose():
    for source in (related(), related(answers=1.0)):
        questions = source.questions(64, keyed_rng("unused"))
        golds = Counter(q.continuations[q.label] for q in questions)
        assert len(golds) == 16 and set(golds.values()) == {4}
        assert set(Counter(q.label for q in questions).values()) == {16}
        assert {c for q in questions for c in q.continuations} == set(golds)
        assert all(len(set(q.continuations)) == 4 for q in questions)


def test_mixed_answers_have_options_of_one_pool():
    names = [{c.strip() for c in q.continuations} for q in related(answers=0.5).questions(40, None)]
    assert not set.union(*names[:20]) & set.union(*names[20:])


def test_questions_depend_on_the_key_alone():
    source = related(subjects=1.0, answers=1.0)
    questions = source.questions(40, np.random.default_rng(1))
    assert questions == source.questions(50, np.random.default_rng(2))[:40]
    assert not set(parts(source)) & set(parts(related(subjects=1.0, answers=1.0, key=1)))


def test_bad_fields_are_refused():
    with pytest.raises(ValueError, match=r"must be among \['capital', .*, not 'anthem'"):
        related("anthem")
    with pytest.raises(ValueError, match="options must be at most answers, 4, not 5"):
        RelatedQuestions("river", RELATIONS, options=5, answers=4)
    with pytest.raises(ValueError, match=r"can make \d+ different answers .* not 2000"):
        RelatedQuestions("river", RELATIONS, answers=2000).questions(1, keyed_rng("unused"))
