import inspect
import json

import jax
import numpy as np
import pandas as pd

from ttoaa.experiments.base import Scorer
from ttoaa.model.decoder import DecoderConfig, init_params
from ttoaa.scoring.likelihood import log_likelihoods
from ttoaa.scoring.scorer import CheckpointScorer, read_probes

MODEL = DecoderConfig(vocab_size=17, layers=1, width=8, heads=2, hidden=8)


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


def test_it_scores_with_its_own_parameters():
    params = init_params(MODEL, jax.random.key(0))
    scorer = CheckpointScorer(7, pd.DataFrame(), pd.DataFrame(), None, MODEL, params)
    requests = [(np.array([1, 2, 3, 4], np.int32), 2)]
    (score,) = scorer.log_likelihood(requests)
    np.testing.assert_array_equal(score, log_likelihoods(MODEL, params, requests)[0])


def test_it_has_all_that_an_outcome_may_ask_for():
    asked = {name for name in vars(Scorer) if not name.startswith("_")}
    primitives = {"log_likelihood", "embedding_gradients", "generate"}
    assert asked == {"step", "items", "probes", "tokenizer"} | primitives
    has = set(inspect.signature(CheckpointScorer).parameters) | set(dir(CheckpointScorer))
    assert asked <= has
