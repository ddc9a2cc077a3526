import inspect
import json

import jax
import numpy as np
import pandas as pd
import pytest

from ttoaa.evaluation.checkpoint_outcomes import CheckpointScorer, read_arm_losses, read_probes
from ttoaa.experiments.scorer import Model, Scorer
from ttoaa.model.decoder import DecoderConfig, init_params
from ttoaa.scoring.attacks import min_k_plus
from ttoaa.scoring.generation import generate
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.likelihood import log_likelihoods, vocabulary_moments
from ttoaa.scoring.requests import Sampling

MODEL = DecoderConfig(17, layers=1, width=8, heads=2, hidden=8, init_std=0.5)  # loud: draws differ


def write_probes(folder, lines):
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "probes.jsonl").write_text(text)


def line(step, experiment, probe, loss):
    return {"step": step, "experiment": experiment, "probe": probe, "loss": loss}


def test_probes_of_one_experiment_up_to_a_step(tmp_path):
    lines = [
        line(0, "forgetting", "at-0.3", [3.5, 3.25]),
        line(0, "canaries", "at-0.3", [9.0]),
        line(5, "forgetting", "at-0.7", [2.0]),
        line(6, "forgetting", "at-0.3", [1.0, 0.5]),
    ]
    write_probes(tmp_path, lines)
    expected = pd.DataFrame(
        {
            "step": [0, 0, 5],
            "probe": ["at-0.3", "at-0.3", "at-0.7"],
            "row": [0, 1, 0],
            "loss": [3.5, 3.25, 2.0],
        }
    )
    pd.testing.assert_frame_equal(read_probes(tmp_path, "forgetting", 5), expected)
    assert len(read_probes(tmp_path, "forgetting", 6)) == 5


def test_no_probes_are_an_empty_table_with_its_columns(tmp_path):
    for folder in (tmp_path / "none", tmp_path):
        if folder.exists():
            write_probes(folder, [line(0, "other", "p", [1.0])])
        table = read_probes(folder, "canaries", 10)
        assert list(table.columns) == ["step", "probe", "row", "loss"] and table.empty


def test_losses_of_arms_are_those_of_the_batch_before_its_update(tmp_path):
    lines = [
        {"step": 1, "arms": {"0": [30.0, 10.0], "2": [8.0, 4.0], "5": [9.0, 9.0]}},
        {"step": 2, "arms": {"0": [20.0, 10.0], "2": [None, 4.0]}},
        {"step": 3, "arms": {"0": [10.0, 10.0]}},
    ]
    (tmp_path / "arms.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = read_arm_losses(tmp_path, {0: "", 2: "mine"}, 2)
    assert found.values.tolist() == [[0, "", 3.0, 10], [0, "mine", 2.0, 4], [1, "", 2.0, 10]]
    assert read_arm_losses(tmp_path / "none", {0: ""}, 9).empty


PARAMS = init_params(MODEL, jax.random.key(0))
OTHERS = init_params(MODEL, jax.random.key(1))
REQUESTS = [(np.array([1, 2, 3, 4], np.int32), 2), (np.array([5, 6, 7], np.int32), 1)]
PROMPTS = [np.array([1, 2], np.int32), np.array([1, 2], np.int32)]


def scorer(params=PARAMS):
    return CheckpointScorer(
        step=7,
        items=pd.DataFrame(),
        probes=pd.DataFrame(),
        tokenizer=None,
        config=MODEL,
        params=params,
        trained=None,
        find_reference=lambda: None,
        find_arm_losses=lambda: None,
    )


@pytest.mark.parametrize("primitive", [log_likelihoods, embedding_gradients, vocabulary_moments])
def test_it_scores_with_its_own_parameters(primitive):
    name = {"log_likelihoods": "log_likelihood"}.get(primitive.__name__, primitive.__name__)
    found, others = (getattr(scorer(params), name)(REQUESTS) for params in (PARAMS, OTHERS))
    wanted = primitive(MODEL, PARAMS, REQUESTS)
    assert len(found) == len(wanted) == 2
    for mine, its, of_others in zip(found, wanted, others, strict=True):
        assert type(mine) is type(its)
        np.testing.assert_array_equal(mine, its)
        assert not np.array_equal(mine, of_others)


def test_its_moments_are_what_min_k_plus_takes():
    (log_probs,), (found,) = (
        primitive(REQUESTS[:1])
        for primitive in (scorer().log_likelihood, scorer().vocabulary_moments)
    )
    np.testing.assert_allclose(found.log_probs, log_probs, rtol=1e-6)
    by_hand = np.mean((log_probs - found.means) / found.stds)
    assert min_k_plus(*found, share=1.0) == pytest.approx(by_hand, rel=1e-5)


def test_it_generates_with_its_own_parameters_and_the_keys_given():
    drawn = Sampling(12, temperature=1.0, seed=3)
    for keys in (None, ["a", "b"], ["a", "a"]):
        found = scorer().generate(PROMPTS, drawn, keys)
        wanted = generate(MODEL, PARAMS, PROMPTS, drawn, keys=keys)
        assert [list(tokens) for tokens in found] == [list(tokens) for tokens in wanted]
        others = scorer(OTHERS).generate(PROMPTS, drawn, keys)
        assert not np.array_equal(found[0], others[0])
        # Two equal prompts with one key are drawn alike, and only they: the keys arrive.
        assert np.array_equal(*found) == (keys == ["a", "a"])


def test_it_has_all_that_an_outcome_may_ask_for():
    asked = {name for name in {**vars(Model), **vars(Scorer)} if not name.startswith("_")}
    primitives = {"log_likelihood", "vocabulary_moments", "embedding_gradients", "generate"}
    primitives |= {"least_likely", "greedy_matches", "reserve", "rows", "masked", "noise"}
    tables = {"step", "items", "copies", "probes", "decisions", "tokenizer"}
    assert asked == {*tables, "reference", "arm_losses", "edited_rows", *primitives}
    for name in primitives:
        mine, its = (inspect.signature(getattr(kind, name)) for kind in (CheckpointScorer, Scorer))
        assert [(p.name, p.kind, p.default) for p in mine.parameters.values()] == [
            (p.name, p.kind, p.default) for p in its.parameters.values()
        ]
    assert tables <= set(inspect.signature(CheckpointScorer).parameters)
