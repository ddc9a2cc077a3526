"""The adapter against a NumPy model; through the harness's tasks: test_harness_tasks.py."""

import importlib
import logging
import sys

import numpy as np
import pytest
from interop.lm_eval.torch_model import (
    CONFIG,
    LENGTH,
    TEXT,
    asked,
    expected,
    greedy,
    loud_params,
    write_checkpoints,
)

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.interop.lm_eval.__main__ import build_command, check_folders
from ttoaa.interop.lm_eval.model import CheckpointLM, cut_at_stops, parse_generation_options
from ttoaa.scoring.requests import Sampling

GREEDY = {"until": [], "max_gen_toks": 6}


@pytest.fixture(scope="module")
def params():
    return loud_params()


@pytest.fixture(scope="module")
def workdir(make_workdir, params):
    workdir = make_workdir()
    write_checkpoints(workdir, params)
    return workdir.root


@pytest.fixture(scope="module")
def lm(workdir):
    return CheckpointLM(workdir=str(workdir))


@pytest.fixture(scope="module")
def tokenizer(corpus):
    """The corpus's, with the ten ids more that the model has."""
    return Tokenizer(corpus.tokenizer.path, CONFIG.vocab_size, corpus.eos_id)


@pytest.fixture(scope="module")
def encode(tokenizer):
    return lambda text: tokenizer.encode(text).tolist()


def test_likelihoods_are_those_of_the_tokens_after_the_context(lm, params, encode, tokenizer):
    pairs = [
        ("the river", " runs down"),
        ("the river ", "runs down"),
        ("", "the river"),
        ("the", " sea"),
    ]
    answers = lm.loglikelihood(asked(*pairs))
    whole, eos = encode("the river runs down"), tokenizer.eos_id
    start = len(encode("the river"))
    wanted = [
        *[expected(params, whole, start)] * 2,
        expected(params, [eos, *encode("the river")], 1),
        expected(params, encode("the sea"), len(encode("the"))),
    ]
    assert [a[0] for a in answers] == pytest.approx([w[0] for w in wanted], abs=1e-4)
    assert [a[1] for a in answers] == [w[1] for w in wanted]
    assert answers[0] == answers[1] and len({a[0] for a in answers}) == 3


def test_the_greedy_continuation_is_told_from_one_with_another_last_token(lm, params, encode):
    context = encode("the river runs")
    likeliest = greedy(params, context, 3)
    other = [*likeliest[:2], (likeliest[2] + 1) % CONFIG.vocab_size]
    texts = ("the river runs", "?")
    answers = lm._loglikelihood_tokens([(texts, context, likeliest), (texts, context, other)])
    assert [answer[1] for answer in answers] == [True, False]
    wanted = expected(params, context + likeliest, len(context))[0]
    assert answers[0][0] == pytest.approx(wanted, abs=1e-4)


def test_a_long_context_loses_its_beginning_and_that_is_said_once(lm, params, encode, caplog):
    context, continuation = f"{TEXT} {TEXT}", " and every boat"
    tokens = encode(context + continuation)[-(LENGTH + 1) :]
    start = len(tokens) - len(encode(continuation))
    assert len(encode(context)) > LENGTH and start > 0
    with caplog.at_level(logging.WARNING):
        answers = lm.loglikelihood(asked((context, continuation), ("the", " sea")) * 2)
    assert answers[0][0] == pytest.approx(expected(params, tokens, start)[0], abs=1e-4)
    assert [r.getMessage()[:22] for r in caplog.records] == ["2 of 4 requests exceed"]


def test_a_row_that_just_fits_is_not_cut(lm, params, caplog):
    tokens = np.random.default_rng(3).integers(1, 300, LENGTH + 1).tolist()
    head, tail = tokens[:-2], tokens[-2:]
    (answer,) = lm._loglikelihood_tokens([(("a", "b"), head, tail)])
    assert not caplog.records
    assert answer[0] == pytest.approx(expected(params, tokens, LENGTH - 1)[0], abs=1e-4)
    (cut,) = lm._loglikelihood_tokens([(("a", "b"), [5, *head], tail)])
    assert cut == answer


def test_a_text_is_scored_in_windows_after_the_prefix(lm, params, encode, tokenizer):
    ids = encode(f"{TEXT} {TEXT}")
    whole, n = [tokenizer.eos_id, *ids], len(ids)
    assert n > 2 * LENGTH and n % LENGTH
    wanted = 0.0
    for first in range(0, n, LENGTH):
        last = min(first + LENGTH, n)  # tokens first .. last - 1, the last of them from LENGTH
        row = whole[max(0, last - LENGTH) : last + 1]
        wanted += expected(params, row, len(row) - (last - first))[0]
    short = expected(params, [tokenizer.eos_id, *encode("the sea")], 1)[0]
    texts = ((f"{TEXT} {TEXT}",), ("",), ("the sea",))
    totals = lm.loglikelihood_rolling(asked(*texts))
    assert totals == pytest.approx([wanted, 0.0, short], abs=1e-3)


def test_a_text_begins_after_bos_where_there_is_one(lm, params, encode, monkeypatch):
    monkeypatch.setattr(lm, "model", lm.model._replace(prefix_id=5))
    wanted = pytest.approx(expected(params, [5, *encode("the sea")], 1)[0], abs=1e-4)
    assert lm.loglikelihood_rolling(asked(("the sea",))) == [wanted]
    assert lm.loglikelihood(asked(("", "the sea")))[0][0] == wanted


def test_greedy_text_is_that_of_forward_passes(lm, params, encode, tokenizer):
    contexts = ["the river runs", TEXT, "", "a quiet sea"]
    tails = [encode(c)[-(LENGTH - 6) :] or [tokenizer.eos_id] for c in contexts]
    wanted = [tokenizer.decode(greedy(params, tail, 6)) for tail in tails]
    assert lm.generate_until(asked(*((c, GREEDY) for c in contexts))) == wanted


def test_each_text_is_cut_as_its_own_options_say(lm, params, encode, tokenizer):
    tokens = greedy(params, encode("the river runs"), 8)
    text = tokenizer.decode(tokens)
    string = tokenizer.decode(tokens[3:5])
    requests = [
        ("the river runs", {"until": string, "max_gen_toks": 8}),
        ("the river runs", {"max_new_tokens": 8, "num_beams": 1}),
        ("the river runs", {"until": ["", string], "max_gen_toks": 8, "do_sample": False}),
        ("the river runs", {"max_gen_toks": 2}),
    ]
    wanted = [
        *(text.split(string)[0], text, text.split(string)[0]),
        tokenizer.decode(tokens[:2]),
    ]
    assert len(wanted[0]) < len(text)
    assert lm.generate_until(asked(*requests)) == wanted


def test_generation_ends_at_eos_or_a_strings_own_tokens(tokenizer, encode):
    how, strings, longest = parse_generation_options(
        {"until": ["\n\n", "sea"], "max_tokens": 3}, tokenizer
    )
    stop = ((tokenizer.eos_id,), tuple(encode("\n\n")), tuple(encode("sea")))
    assert how == Sampling(max_new_tokens=3, stop=stop) and strings == ["\n\n", "sea"]
    assert longest is None
    drawn, strings, _ = parse_generation_options(
        {"temperature": 0.5, "top_k": 0, "top_p": 1.0}, tokenizer
    )
    assert drawn == Sampling(256, 0.5, top_p=1.0, stop=stop[:1]) and strings == []
    assert (
        parse_generation_options({"do_sample": True, "temperature": None}, tokenizer)[0].temperature
        == 1
    )
    assert (
        parse_generation_options({"do_sample": False, "temperature": 0.5}, tokenizer)[0].temperature
        == 0
    )
    # A task may say null: as if it had said nothing.
    assert (
        parse_generation_options({"do_sample": None, "temperature": 0.5}, tokenizer)[0].temperature
        == 0.5
    )
    assert parse_generation_options({"do_sample": None}, tokenizer)[0].temperature == 0


@pytest.mark.parametrize(
    ("strings", "text"),
    [([], "a quiet sea"), (["quiet"], "a "), (["sea", "qu"], "a "), (["et s", "t"], "a qui")],
)
def test_a_text_is_cut_at_eos_and_at_its_strings(tokenizer, encode, strings, text):
    tokens = [*encode("a quiet sea"), tokenizer.eos_id, *encode(" and")]
    assert cut_at_stops(np.array(tokens), tokenizer, strings) == text


def test_samples_do_not_depend_on_what_else_is_asked(lm):
    how = {"max_gen_toks": 6, "do_sample": True, "temperature": 1.5, "top_k": 50, "top_p": 0.9}
    alone = lm.generate_until(asked(("the sea", how)))[0]
    others = [("the river", how), ("the sea", how), ("a boat", GREEDY), ("the sea", how)]
    texts = lm.generate_until(asked(*others))
    assert texts[1] == alone and texts[3] != alone
    assert lm.generate_until(asked(("the sea", {**how, "seed": 1})))[0] != alone


class Kept(list):
    """What the harness keeps answers with."""

    def add_partial(self, *answer):
        self.append(answer)


def test_answers_are_kept_for_the_harness(workdir):
    lm = CheckpointLM(workdir=str(workdir))
    lm.cache_hook = kept = Kept()
    (scored,) = lm.loglikelihood(asked(("the", " sea")))
    (total,) = lm.loglikelihood_rolling(asked(("the sea",)))
    (text,) = lm.generate_until(asked(("the", GREEDY)))
    assert kept == [
        ("loglikelihood", ("the", " sea"), scored),
        ("loglikelihood_rolling", ("the sea",), total),
        ("generate_until", ("the", GREEDY), text),
    ]


def test_the_checkpoint_is_the_newest_or_the_one_that_is_named(workdir, lm):
    request = asked(("the river", " runs"))
    newest = lm.loglikelihood(request)
    options = {"workdir": str(workdir), "batch_size": 8, "device": None}
    named = [CheckpointLM(step=step, **options) for step in (3, 7)]
    assert named[0].loglikelihood(request) != newest == named[1].loglikelihood(request)
    folder = CheckpointLM(folder=str(workdir / "run"), max_length=9)
    assert folder.loglikelihood(request) == newest and folder.max_length == 9
    assert lm.get_model_info()["model_source"] == f"step 7 of {workdir.resolve() / 'run'}"


def test_names_may_be_numbers(workdir, tmp_path, monkeypatch):
    """The harness's command makes an int of --folder=2024."""
    (tmp_path / "2024").symlink_to(workdir)
    (tmp_path / "7").symlink_to(workdir / "run")
    monkeypatch.chdir(tmp_path)
    wanted = f"step 7 of {workdir.resolve() / 'run'}"
    for options in ({"folder": 7}, {"workdir": 2024}):
        assert CheckpointLM(**options).get_model_info()["model_source"] == wanted
    with pytest.raises(ValueError, match=r"/7/checkpoints has no"):
        CheckpointLM(workdir=2024, run=7)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"exactly one of workdir"),
        ({"folder": "x", "workdir": "y"}, r"exactly one of workdir"),
        ({"workdir": "x", "tokenizer": "y"}, r"has 'tokenizer', which"),
        ({"folder": "nowhere"}, r"nowhere/checkpoints has no checkpoint: name a folder of"),
        ({"folder": "nowhere", "max_length": 0}, r"max_length must be"),
        ({"folder": "nowhere", "max_length": "64k"}, r"max_length must be .*, not '64k'"),
        ({"folder": "nowhere", "max_length": 1.5}, r"max_length must be"),
        ({"folder": "nowhere", "tensor": "all"}, r"tensor must be .*, not 'all'"),
        ({"folder": "nowhere", "step": "last"}, r"step must be .*, not 'last'"),
    ],
)
def test_what_cannot_be_opened_is_said(options, message):
    with pytest.raises(ValueError, match=message):
        CheckpointLM(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_gen_toks": LENGTH}, r"16 new tokens leave no room for a prompt in max_length=16"),
        ({"num_beams": 4}, r"num_beams=4 is not supported: only 1 is"),
        ({"penalty": 1.0}, r"penalty=1.0 is not supported: leave it out"),
        ({"repetition_penalty": 1.2}, r"repetition_penalty=1.2 is not supported: only 1 is"),
        ({"num_return_sequences": 2}, r"num_return_sequences=2 is not supported: only 1 is"),
        ({"eos_token_id": 5}, r"eos_token_id=5 is not supported: only 0 is"),
        (
            {"max_length": 2, "max_gen_toks": 4},
            r"max_length=2 leaves no room after a prompt of \d tokens",
        ),
        ({"max_length": "long"}, r"max_length must be a whole number, not 'long'"),
        ({"max_gen_toks": 0}, r"max_new_tokens must be an integer of at least 1"),
        ({"max_gen_toks": 2.5}, r"max_gen_toks must be a whole number, not 2.5"),
        ({"until": 7}, r"until must be texts, not 7"),
        ({"until": ["a", 7]}, r"until must be texts, not \['a', 7\]"),
        ({"do_sample": "no"}, r"do_sample must be true or false, not 'no'"),
        ({"temperature": "hot"}, r"temperature must be a number, not 'hot'"),
        ({"temperature": float("nan")}, r"temperature must be a number, not nan"),
        ({"temperature": 1, "top_p": 0}, r"top_p must be a number above 0 and at most 1"),
        ({"seed": [1]}, r"seed must be a whole number, not \[1\]"),
        ({"temperature": -1, "do_sample": True}, r"temperature"),
    ],
)
def test_options_without_meaning_are_refused(lm, options, message):
    with pytest.raises(ValueError, match=message):
        lm.generate_until(asked(("the sea", options)))


@pytest.mark.parametrize(
    "more",
    [
        {"repetition_penalty": 1.0, "num_return_sequences": 1, "no_repeat_ngram_size": 0},
        {"use_cache": True, "pad_token_id": 7, "length_penalty": 2.0, "num_beams": None},
        {"temperature": 0, "top_p": 0, "top_k": 50, "min_p": 0.0, "seed": 5},
        {"max_gen_toks": "4"},
    ],
)
def test_options_that_change_nothing_are_accepted(lm, more):
    requests = asked(("the sea", {"max_gen_toks": 4}), ("the sea", {"max_gen_toks": 4} | more))
    assert len(set(lm.generate_until(requests))) == 1


def test_max_length_counts_the_prompt(lm, params, encode, tokenizer):
    contexts = ["the river runs", "the sea", TEXT, ""]
    prompts = [encode(context)[-(LENGTH - 4) :] or [tokenizer.eos_id] for context in contexts]
    options = {"max_length": 14, "max_gen_toks": 4}
    texts = lm.generate_until(asked(*((context, options) for context in contexts)))
    assert max(map(len, prompts)) == 12
    for text, prompt in zip(texts, prompts, strict=True):
        assert text == tokenizer.decode(greedy(params, prompt, 14 - len(prompt)))


def test_nothing_asked_is_nothing_answered(lm):
    """As with --limit 0."""
    assert lm.loglikelihood([]) == lm.loglikelihood_rolling([]) == lm.generate_until([]) == []


def test_a_blank_context_is_the_prefix_token(lm, params, encode, tokenizer):
    answers = lm.loglikelihood(asked(("", " the sea"), (" ", "the sea"), ("  ", " sea")))
    for answer, text in zip(answers, (" the sea", " the sea", "   sea"), strict=True):
        wanted = expected(params, [tokenizer.eos_id, *encode(text)], 1)[0]
        assert answer[0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("context", ["", "the sea"])
def test_an_empty_continuation_is_refused(lm, context):
    with pytest.raises(ValueError, match=r"a continuation has no token after its context: drop"):
        lm.loglikelihood(asked(("the", " sea"), (context, "")))
    (answer,) = lm.loglikelihood_rolling(asked(("",)))
    assert answer == 0.0 and len(lm.generate_until(asked(("", GREEDY)))) == 1


def test_a_continuation_that_cannot_be_scored_is_refused(lm):
    with pytest.raises(ValueError, match=r"no token after its context"):
        lm._loglikelihood_tokens([(("a", ""), [1, 2], [])])
    with pytest.raises(ValueError, match=r"has 17 tokens, more than max_length=16"):
        lm._loglikelihood_tokens([(("a", "b"), [1], [2] * 17)])


def test_ours_become_the_harness_own_arguments():
    given = ["--tasks=piqa", "--workdir=runs/a=b", "--step", "90", "--limit", "5", "--seed=3"]
    assert build_command(given) == [
        *("--model", "ttoaa", "--model_args", "workdir=runs/a=b,step=90"),
        *("--tasks=piqa", "--limit", "5", "--seed=3"),
    ]
    with pytest.raises(ValueError, match="rename it"):
        build_command(["--folder=a,b"])
    with pytest.raises(ValueError, match="name a study"):
        build_command(["--tasks=piqa"])


def test_without_the_harness_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, "ttoaa.interop.lm_eval.model", raising=False)
    with pytest.raises(ModuleNotFoundError, match=r"lm_eval.* is missing: pip install 'ttoaa"):
        importlib.import_module("ttoaa.interop.lm_eval.model")


def test_a_folder_or_step_that_is_not_there_is_named_before_anything_loads(tmp_path):
    (tmp_path / "run/checkpoints/30").mkdir(parents=True)
    check_folders([f"--workdir={tmp_path}", "--step=30", "--tasks=piqa"])
    for more, message in (
        (["--step=90"], "run has no checkpoint '90', only 30"),
        (["--run=control"], "control has no checkpoint: name a trained run"),
    ):
        with pytest.raises(ValueError, match=message):
            check_folders([f"--workdir={tmp_path}", "--tasks=x", *more])
    with pytest.raises(ValueError, match="is not a folder"):
        check_folders([f"--folder={tmp_path / 'nowhere'}"])
