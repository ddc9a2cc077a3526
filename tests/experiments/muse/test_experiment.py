import collections
import dataclasses
import itertools

import jax
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from ttoaa.evaluation.checkpoint_outcomes import CheckpointScorer
from ttoaa.experiments.muse import GeneratedNews, MuseNews
from ttoaa.experiments.muse.articles import Article, ArticleSets, QuestionAnswer
from ttoaa.model.decoder import DecoderConfig, init_params
from ttoaa.statistics.bootstrap import keyed_rng

LENGTH = 1024  # the tests' tokenizer has hardly more than bytes


def muse(**changes):
    fields = {
        "name": "muse",
        "primary": "word_order_above_held_out/whole-4x",
        "expected_sign": 1,
        "repetitions": (1, 4),
        "members": (7, 6),
        "held_out": 16,
        "shots": 1,
    }
    return MuseNews(**(fields | changes))


@pytest.fixture
def items(make_world):
    return list(muse().intervene(make_world(muse(), length=LENGTH)))


class WordModel:
    """Scores the words of a text by `score(words, i)`, spread over the text's tokens."""

    def __init__(self, items, tokenizer, score):
        rows = [{"id": i.id, "condition": i.condition, **i.fields} for i in items]
        self.items, self.tokenizer, self.score = pd.DataFrame(rows), tokenizer, score

    def log_likelihood(self, requests):
        return [
            np.full(len(tokens) - start, self._mean(self.tokenizer.decode(tokens[start:]).split()))
            for tokens, start in requests
        ]

    def _mean(self, words):
        return np.mean([self.score(words, i) for i in range(len(words))])

    def generate(self, prompts, sampling, keys=None):
        """Answer with the text itself where a prompt begins an article, else with nothing."""
        texts = [self.tokenizer.encode(text).tolist() for text in self.items["whole"]]
        found = []
        for prompt in prompts:
            n = len(prompt) - 1  # without the EOS
            rest = [text[n:] for text in texts if text[:n] == prompt[1:].tolist()]
            found.append(np.array(rest[0][: sampling.max_new_tokens] if rest else [], np.int32))
        return found


def test_nine_conditions_differ_in_how_articles_are_cut(items, make_world, same_items):
    copies, documents = collections.defaultdict(list), collections.Counter()
    for item in items:
        copies[item.condition, item.fields["article"]].append(item)
        documents[item.condition] += 1
    articles = collections.Counter(condition for condition, _ in copies)
    forms = ("whole", "split", "resplit")
    assert articles == {f"{f}-{r}x": {1: 7, 4: 6}[r] for f in forms for r in (1, 4)} | {
        "held-out": 16
    }
    assert documents["whole-4x"] == 6 and documents["split-4x"] == 6 * 7
    assert documents["resplit-1x"] == 7 * 7 and documents["resplit-4x"] == 6 * 7 * 4
    for (condition, _), found in copies.items():
        repetitions = {i.repetitions for i in found}
        assert repetitions == {
            "whole-1x": {1}, "whole-4x": {4}, "split-1x": {1}, "split-4x": {4},
            "resplit-1x": {1}, "resplit-4x": {1}, "held-out": {0},
        }[condition]  # fmt: skip
        whole = found[0].fields["whole"]
        assert all(i.fields["whole"] == "" for i in found[1:])
        for first in range(0, len(found), 7) if "split" in condition else ():
            parts = [i.text for i in found[first : first + 7]]
            assert " ".join(parts).split() == whole.split()
        if condition == "resplit-4x":
            assert len({i.text for i in found}) > 7
    assert len({i.id for i in items}) == len(items)
    again = list(muse().intervene(make_world(muse(), length=LENGTH)))
    assert same_items(items, again)
    other = muse().intervene(make_world(muse(), seed=1, length=LENGTH))
    assert not {i.text for i in other} & {i.text for i in items if i.condition == "held-out"}


def test_every_article_is_scored_once(items, tokenizer):
    model = WordModel(items, tokenizer, lambda words, i: -1.0)
    table = muse().outcome(model)
    assert not table.duplicated(["item", "outcome"]).any()
    assert table.groupby("outcome")["item"].nunique().tolist() == [55] * 6
    values = table.groupby("outcome")["value"].mean().to_dict()
    assert values.pop("word_order") == 0
    assert values.pop("knowmem_log_likelihood") < -4  # a sum over the tokens of a name
    assert set(values.values()) == {-1.0}


def trained(items):
    return [i.fields["whole"].split() for i in items if i.repetitions and i.fields["whole"]]


def final(items, tokenizer, run):
    """The estimates of a model against one that scores every word -1."""
    control = WordModel(items, tokenizer, lambda words, i: -1.0)
    experiment = muse()
    tables = experiment.outcome(WordModel(items, tokenizer, run)), experiment.outcome(control)
    return {(e.outcome, e.condition): e for e in experiment.estimates(*tables)}


def test_a_model_that_learnt_the_form_of_news_does_not_pass(items, tokenizer):
    """Its gain is that of held-out articles, also where it knows the order of common words."""
    held_out = [i.fields["whole"].split() for i in items if not i.repetitions]
    common = collections.Counter(p for words in held_out for p in set(itertools.pairwise(words)))
    form = {pair for pair, count in common.items() if count > 2}
    found = final(items, tokenizer, lambda words, i: -0.5 + ((words[i - 1], words[i]) in form))
    assert found["word_order", "whole-4x"].difference > 0.1
    for outcome in ("word_order", "log_likelihood"):
        estimate = found[f"{outcome}_above_held_out", "whole-4x"]
        assert estimate.difference_ci_low < 0 < estimate.difference_ci_high
    assert found["auc", "whole-4x"].value < 0.7


def test_a_model_that_remembers_words_but_not_their_order_does_not_pass(items, tokenizer):
    """The log-likelihood above held-out articles, which is no primary, takes it for memory."""
    known = set().union(*trained(items))
    found = final(items, tokenizer, lambda words, i: -1.0 + (words[i] in known))
    assert found["log_likelihood_above_held_out", "whole-4x"].difference > 0.05
    assert found["auc", "whole-4x"].value == 1
    assert abs(found["word_order_above_held_out", "whole-4x"].difference) < 1e-6


def test_a_model_that_remembers_articles_passes(items, tokenizer):
    pairs = {p for words in trained(items) for p in itertools.pairwise(words)}
    found = final(items, tokenizer, lambda words, i: -1.0 + ((words[i - 1], words[i]) in pairs))
    assert found["word_order_above_held_out", "whole-4x"].difference > 0.1
    leak = found["privleak", "whole-4x"]
    assert leak.value == -100 and leak.difference == 100 and leak.control_value == 0
    halves = found["word_order_of_half_the_held_out", "held-out"]
    assert halves.difference_ci_low < 0 < halves.difference_ci_high
    assert muse().placebo == "word_order_of_half_the_held_out/held-out"
    # It remembers all forms alike, so they do not differ.
    contrast = found["log_likelihood_contrast", "split-vs-whole-4x"]
    assert abs(contrast.difference) < 0.01


def test_contrasts_compare_forms_at_equal_numbers_of_copies():
    """Synthetic scores: only split articles with four copies gained, by 0.7."""
    experiment = muse(members=8, held_out=8)
    rows = []
    rng = keyed_rng("contrasts")
    for form in ("whole", "split", "resplit"):
        for r in (1, 4):
            gains = 0.7 * (form == "split" and r == 4) + 0.1 * rng.normal(size=8)
            for k, gain in enumerate(gains):
                for outcome in ("log_likelihood", "log_likelihood_pieces", "min_k"):
                    rows.append((f"{form}-{r}-{k}", f"{form}-{r}x", outcome, gain - 2))
    for k in range(8):
        for outcome in ("log_likelihood", "log_likelihood_pieces", "min_k"):
            rows.append((f"out-{k}", "held-out", outcome, -2.0))
    run = pd.DataFrame(rows, columns=["item", "condition", "outcome", "value"])
    found = {
        e.condition: e
        for e in experiment.estimates(run, run.assign(value=-2.0))
        if e.outcome == "log_likelihood_contrast"
    }
    assert len(found) == 6
    for name, estimate in found.items():
        clear = estimate.difference_ci_low > 0.4
        assert clear == (name in ("split-vs-whole-4x", "split-vs-resplit-4x"))
        assert estimate.n == 16


def test_generated_text_is_compared_by_rouge_l(items, tokenizer):
    table = muse(generate=True, continuation_tokens=16).outcome(
        WordModel(items, tokenizer, lambda words, i: -1.0)
    )
    values = table.groupby("outcome")["value"].mean()
    assert values["verbmem_rouge_l"] == 1 and values["knowmem_rouge_l"] == 0
    with pytest.raises(ValueError, match="needs generate = True"):
        muse(primary="verbmem_rouge_l_above_held_out/whole-4x")


@dataclasses.dataclass(frozen=True)
class Fixed:
    """Given texts."""

    forget: tuple[str, ...] = ()
    retain1: tuple[str, ...] = ()
    retain2: tuple[str, ...] = ()

    def read(self, members, held_out, rng):
        question = QuestionAnswer("Who?", "Ann")
        return ArticleSets(
            {k: [Article(f"{k}-{i}", t) for i, t in enumerate(v)] for k, v in vars(self).items()},
            [question],
        )


def test_dropped_articles_are_printed_and_too_few_are_an_error(make_world, capsys):
    text = " ".join(f"{k}." for k in range(30))
    sets = {"forget": (text, text, "1. 2. 3. 4. 5. 6. 7."), "retain2": (text, "x " * 900)}
    experiment = muse(source=Fixed(**sets), members=1, held_out=1)
    with pytest.raises(
        ValueError, match="muse: forget and retain1 have 2 articles of the 6 needed"
    ):
        list(experiment.intervene(make_world(experiment, length=LENGTH)))
    assert capsys.readouterr().out == (
        "muse: forget 2, retain1 0, retain2 0 articles; dropped 3 articles; 1 (exact, forget = "
        "forget); 1 (exact, retain2 = forget); 1 (too long, retain2)\n"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"members": (1,)}, "members has 1 numbers for 2"),
        ({"primary": "auc/whole-2x"}, "the primary's condition must be among"),
        ({"primary": "log_likelihood_contrast/whole-4x"}, "split-vs-whole-1x"),
    ],
)
def test_invalid_fields(changes, message):
    with pytest.raises(ValueError, match=message):
        muse(**changes)


def test_a_question_must_fit_a_row_and_there_must_be_solved_ones(make_world):
    with pytest.raises(ValueError, match="does not fit a row of 600: lower shots"):
        many = muse(shots=14, source=GeneratedNews(examples=14))
        list(many.intervene(make_world(many, length=600)))
    with pytest.raises(ValueError, match="8 solved questions, not 9: lower shots"):
        list(muse(shots=9).intervene(make_world(muse(), length=LENGTH)))


def test_a_plan_keeps_what_a_real_model_scores(plan_of, corpus):
    rng = keyed_rng("letters")
    texts = [" ".join(f"{a}." for a in rng.choice(list("abcdefgh"), 8)) for _ in range(14)]
    source = Fixed(tuple(texts[:4]), tuple(texts[4:6]), tuple(texts[6:]))
    experiment = muse(source=source, members=1, held_out=8, shots=0, generate=True, ngram=4)
    plan = plan_of([experiment])
    assert {arm["condition"]: arm["edits"] for arm in plan.arms} == {
        "whole-1x": 1, "whole-4x": 4, "split-1x": 7, "split-4x": 28,
        "resplit-1x": 7, "resplit-4x": 28,
    }  # fmt: skip
    model = DecoderConfig(vocab_size=320, layers=1, width=16, heads=2, hidden=16)
    scorer = CheckpointScorer(
        step=0,
        items=plan.items("muse"),
        probes=pd.DataFrame(),
        tokenizer=corpus.tokenizer,
        config=model,
        params=init_params(model, jax.random.key(0)),
        trained=None,
        find_reference=None,
        find_arm_losses=None,
    )
    table = experiment.outcome(scorer)
    assert table.groupby("outcome").size().to_dict() == dict.fromkeys(table["outcome"], 14)
    assert table["item"].nunique() == 14 and np.isfinite(table["value"]).all()
    assert all(e.difference == 0 for e in experiment.estimates(table, table))


def test_figure(items, tokenizer, final_table):
    found = final(items, tokenizer, lambda words, i: -0.5)
    axes = Figure().subplots()
    muse().figure(final_table(list(found.values())), axes)
    assert [t.get_text() for t in axes.get_xticklabels()] == ["1×", "4×"]
    assert len(axes.get_lines()) == 7
