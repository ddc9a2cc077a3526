import dataclasses
import json
import os
import subprocess
import sys

import jax
import numpy as np
import pytest
from model import reference
from model.test_decoder import loud_params

from ttoaa.model.decoder import DecoderConfig, apply
from ttoaa.model.sharding import Layout, make_mesh, shardings
from ttoaa.scoring import generation
from ttoaa.scoring.generation import decoding_rows, generate, prefill_rows
from ttoaa.scoring.requests import Sampling

MODEL = DecoderConfig(vocab_size=64, layers=2, width=16, heads=4, hidden=24, kv_heads=2)
PARAMS = loud_params(MODEL, 5)
LENGTHS = (1, 2, 31, 32, 33, 64, 17, 5)
DRAWN = Sampling(max_new_tokens=20, temperature=0.9, top_k=30, top_p=0.95, seed=4)


def draw_prompts(lengths=LENGTHS, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, MODEL.vocab_size, n).astype(np.int32) for n in lengths]


def same(one, other):
    return [a.tolist() for a in one] == [a.tolist() for a in other]


def of_documents(config, params, tokens):
    """float64[n, V]: each document's logits as if it stood alone; a separator ends its own."""
    ends = np.flatnonzero(tokens == config.document_separator) + 1
    parts = [part for part in np.split(tokens, ends) if len(part)]
    return np.concatenate([reference.logits(config, params, part[None])[0] for part in parts])


@pytest.fixture(scope="module")
def drawn():
    return generate(MODEL, PARAMS, draw_prompts(), DRAWN)


@pytest.fixture(scope="module")
def greedy():
    """Exactly as many as one bucket of new tokens holds."""
    return generate(MODEL, PARAMS, draw_prompts(), Sampling(32))


def test_greedy_tokens_are_the_argmax_of_a_plain_olmo2(greedy):
    for prompt, new in zip(draw_prompts(), greedy, strict=True):
        assert new.dtype == np.int32 and new.shape == (32,)
        row = np.concatenate([prompt, new])
        logits = reference.logits(MODEL, PARAMS, row[None])[0]
        np.testing.assert_array_equal(new, logits[len(prompt) - 1 : -1].argmax(axis=-1))
    assert np.mean([len(set(new.tolist())) for new in greedy]) > 8, "rows that only repeat say less"


def test_greedy_tokens_are_the_argmax_where_every_head_has_its_own_keys():
    config = dataclasses.replace(MODEL, layers=1, kv_heads=None, rope_theta=30.0)
    params, prompts = loud_params(config, 5), draw_prompts((1, 9, 32))
    for prompt, new in zip(prompts, generate(config, params, prompts, Sampling(40)), strict=True):
        row = np.concatenate([prompt, new])
        logits = reference.logits(config, params, row[None])[0]
        np.testing.assert_array_equal(new, logits[len(prompt) - 1 : -1].argmax(axis=-1))


def test_tokens_go_on_where_the_cache_grows():
    """Twice within these 75; as if the cache had been whole from the start."""
    prompts, given = draw_prompts((1, 17, 32)), Sampling(75, temperature=0.9, seed=4)
    grown = generate(MODEL, PARAMS, prompts, given)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(generation, "_stages", lambda room: [room])
        generation._one_pass.clear_cache()
        whole = generate(MODEL, PARAMS, prompts, given)
    generation._one_pass.clear_cache()
    assert generation._stages(96) == [32, 64, 96] and generation._stages(32) == [32]
    assert same(grown, whole) and len(set(grown[0].tolist())) > 8


def test_attention_ends_at_a_document_separator():
    config = dataclasses.replace(MODEL, document_separator=3)
    params = jax.tree.map(np.copy, PARAMS)
    params["head"][:, 3] *= 2.5
    prompts = draw_prompts((1, 12, 20, 31))
    prompts[0][0] = prompts[1][-1] = prompts[2][-2] = prompts[3][4] = 3
    new = generate(config, params, prompts, Sampling(24))
    assert any(3 in row[:-5] for row in new), "separators must be among the new tokens too"
    apart = 0
    for prompt, tokens in zip(prompts, new, strict=True):
        row = np.concatenate([prompt, tokens])
        logits = of_documents(config, params, row)[len(prompt) - 1 : -1]
        np.testing.assert_array_equal(tokens, logits.argmax(axis=-1))
        joined = reference.logits(config, params, row[None])[0, len(prompt) - 1 : -1]
        apart += (joined.argmax(axis=-1) != tokens).sum()
    assert apart > 5, "nothing would show a separator that is passed over"


def test_bfloat16_takes_a_token_that_is_nearly_the_likeliest():
    config = dataclasses.replace(MODEL, dtype="bfloat16")
    prompts = draw_prompts((3, 20))
    for prompt, new in zip(prompts, generate(config, PARAMS, prompts, Sampling(16)), strict=True):
        row = np.concatenate([prompt, new])
        logits = np.asarray(apply(MODEL, PARAMS, row[None]))[0, len(prompt) - 1 : -1]
        assert (logits.max(axis=-1) - logits[np.arange(len(new)), new]).max() < 0.15


def test_one_limit_gives_the_beginning_of_another(greedy):
    shorter = generate(MODEL, PARAMS, draw_prompts(), Sampling(1))
    assert same(shorter, [new[:1] for new in greedy])


def test_an_item_alone_gives_the_same(drawn):
    alone = [generate(MODEL, PARAMS, [prompt], DRAWN)[0] for prompt in draw_prompts()]
    assert same(alone, drawn)


def test_neighbours_and_order_change_nothing(drawn):
    prompts, crowd = draw_prompts(), draw_prompts([7, 32, 40] * 20, seed=9)
    order = np.random.default_rng(2).permutation(len(prompts))
    mixed = generate(MODEL, PARAMS, crowd + [prompts[i] for i in order] + crowd, DRAWN)
    assert same(mixed[len(crowd) : -len(crowd)], [drawn[i] for i in order])


def test_equal_prompts_are_drawn_apart_and_again_alike(drawn):
    prompts = draw_prompts()
    thrice = generate(MODEL, PARAMS, [prompts[2], prompts[0], prompts[2], prompts[2]], DRAWN)
    assert len({tuple(new.tolist()) for new in (thrice[0], *thrice[2:])}) == 3
    assert same(thrice[:2], [drawn[2], drawn[0]])


def test_keys_are_of_the_caller(drawn):
    prompt = draw_prompts()[2]
    given = generate(MODEL, PARAMS, [prompt] * 4, DRAWN, keys=["b", 0, "a", "b"])
    assert same([given[1]], [drawn[2]]) and same([given[0]], [given[3]])
    assert len({tuple(new.tolist()) for new in given}) == 3
    assert same(generate(MODEL, PARAMS, [prompt], DRAWN, keys=["a"]), [given[2]])
    other = generate(MODEL, PARAMS, [prompt], dataclasses.replace(DRAWN, seed=5))
    assert not same(other, [drawn[2]])


def test_equal_keys_of_different_prompts_are_different_streams():
    params = jax.tree.map(np.zeros_like, PARAMS)
    prompts = draw_prompts((4, 4))
    first, second = generate(MODEL, params, prompts, DRAWN, keys=[1, 1])
    assert (first != second).mean() > 0.5


def test_an_item_ends_with_the_first_stop_that_it_completes(greedy):
    prompts = draw_prompts()
    stop = (tuple(greedy[0][9:12].tolist()), tuple(greedy[4][5:6].tolist()))

    def cut(new):
        text = new.tolist()
        ends = [end for end in range(1, 33) for s in stop if tuple(text[:end][-len(s) :]) == s]
        return new[: min(ends, default=32)]

    stopped = generate(MODEL, PARAMS, prompts, Sampling(32, stop=stop))
    assert same(stopped, [cut(new) for new in greedy])
    lengths = [len(new) for new in stopped]
    assert min(lengths) <= 6 and max(lengths) == 32 and len(set(lengths)) > 2


def test_a_stop_is_not_completed_across_the_prompts_end(greedy):
    prompt, new = draw_prompts()[2], greedy[2]
    across = (int(prompt[-1]), int(new[0]))
    whole = (int(new[0]), int(new[1]))
    sampling = Sampling(32, stop=(across,))
    assert len(generate(MODEL, PARAMS, [prompt], sampling)[0]) > 2
    at_once = dataclasses.replace(sampling, stop=(whole,))
    assert same(generate(MODEL, PARAMS, [prompt], at_once), [new[:2]])


def test_a_pass_ends_when_all_its_rows_have(greedy):
    prompt = draw_prompts()[1]
    tokens, lengths = np.zeros((32, 32), np.int32), np.zeros(32, np.int32)
    tokens[3, :2], lengths[3] = prompt, 2
    keys, rules = np.zeros((32, 2), np.uint32), generation._sampling_arguments(Sampling(32))
    rules = rules._replace(stop_SxT=greedy[1][None, 2:4])
    options = {"room": 32, "top_k": None, "execution": generation.PLAIN}
    written, ends = generation._one_pass(MODEL, PARAMS, tokens, lengths, keys, rules, **options)
    last = ends[3]
    assert 2 <= last <= 4 and (np.asarray(ends)[lengths == 0] == 0).all()
    assert (np.asarray(written)[:, :last] >= 0).all() and (
        np.asarray(written)[:, last:] == -1
    ).all()


def test_a_bucket_is_compiled_once():
    config = dataclasses.replace(MODEL, layers=1, width=8, hidden=8)
    params, before = loud_params(config), generation._one_pass._cache_size()
    for seed, temperature, limit, lengths in ((0, 0.5, 3, (4, 9)), (1, 0.7, 32, (32, 1, 2))):
        sampling = Sampling(limit, temperature, top_k=3, seed=seed)
        generate(config, params, draw_prompts(lengths), sampling)
    assert generation._one_pass._cache_size() == before + 1


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, list])
def test_tokens_of_any_integer_type(greedy, dtype):
    prompt = draw_prompts()[6]
    given = prompt.tolist() if dtype is list else prompt.astype(dtype)
    assert same(generate(MODEL, PARAMS, [given], Sampling(32)), greedy[6:7])


def test_nothing_to_continue_is_fine():
    assert generate(MODEL, PARAMS, [], Sampling(3)) == []


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt 1 must be at least one token id: start with the end-of-text id"),
        ([0.5], "prompt 1 must be at least one token id"),
        ([[1, 2]], "prompt 1 must be at least one token id"),
        ([3, 64], "prompt 1 has ids outside the vocabulary of 64: is it another tokenizer's"),
        ([-1], "prompt 1 has ids outside the vocabulary of 64"),
    ],
)
def test_a_prompt_that_cannot_be_is_named(prompt, message):
    with pytest.raises(ValueError, match=message):
        generate(MODEL, PARAMS, [np.array([1]), np.array(prompt)], Sampling(3))


def test_keys_and_stops_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match="2 keys for 1 prompts: give one for each, or None"):
        generate(MODEL, PARAMS, [np.array([1])], Sampling(3), keys=[1, 2])
    with pytest.raises(ValueError, match=r"Sampling\.stop has ids outside the vocabulary of 64"):
        generate(MODEL, PARAMS, [np.array([1])], Sampling(3, stop=((2, 64),)))


def test_rows_of_a_pass_follow_the_slots_and_the_platform():
    assert [decoding_rows(slots, "cpu") for slots in (64, 512, 4096, 10**6)] == [32, 32, 4, 1]
    assert [decoding_rows(slots, "tpu") for slots in (64, 4160, 10**6)] == [256, 16, 1]
    assert [prefill_rows(length, 32, "cpu") for length in (32, 4096)] == [2, 2]
    assert prefill_rows(4096, 1, "cpu") == 1
    assert [prefill_rows(length, 256, "gpu") for length in (32, 96, 4096, 10**5)] == [
        256,
        128,
        4,
        1,
    ]


def test_a_mesh_gives_the_same_tokens(greedy):
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=8"
    ran = subprocess.run(
        [sys.executable, "-m", "scoring.test_generation"],
        env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        cwd=os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {"devices": 8, "new": [new[:20].tolist() for new in greedy]}


def _over_a_mesh():
    mesh = make_mesh(Layout(data=2, fsdp=2, tensor=2))
    with jax.set_mesh(mesh):
        params = jax.device_put(PARAMS, shardings(mesh, PARAMS))
        new = generate(MODEL, params, draw_prompts(), Sampling(20))
    devices = len(params["head"].sharding.device_set)
    print(json.dumps({"devices": devices, "new": [row.tolist() for row in new]}))


if __name__ == "__main__":
    _over_a_mesh()
