"""The scorer of one checkpoint of one run, passed to outcomes (see experiments.base.Scorer)."""

import dataclasses
import pathlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.model.decoder import DecoderConfig, Params
from ttoaa.scoring.generation import generate
from ttoaa.scoring.gradients import embedding_gradients
from ttoaa.scoring.likelihood import Moments, log_likelihoods, vocabulary_moments
from ttoaa.scoring.requests import Request, Sampling
from ttoaa.workdir import read_json_lines


@dataclasses.dataclass(frozen=True)
class CheckpointScorer:
    """Score with the parameters of `step`; items, probes and decisions belong to one experiment."""

    step: int
    items: pd.DataFrame
    probes: pd.DataFrame
    tokenizer: Tokenizer
    config: DecoderConfig
    params: Params
    decisions: pd.DataFrame = dataclasses.field(default_factory=pd.DataFrame)

    def log_likelihood(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return log_likelihoods(self.config, self.params, requests)

    def vocabulary_moments(self, requests: Sequence[Request]) -> list[Moments]:
        return vocabulary_moments(self.config, self.params, requests)

    def embedding_gradients(self, requests: Sequence[Request]) -> list[np.ndarray]:
        return embedding_gradients(self.config, self.params, requests)

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        keys: Sequence[int | str] | None = None,
    ) -> list[np.ndarray]:
        return generate(self.config, self.params, prompts, sampling, keys=keys)


def read_probes(run: pathlib.Path, experiment: str, step: int) -> pd.DataFrame:
    """Read the probes of one experiment up to `step`: columns step, probe, row, loss."""
    rows = [
        (line["step"], line["probe"], row, loss)
        for line in read_json_lines(run / "probes.jsonl")
        if line["experiment"] == experiment and line["step"] <= step
        for row, loss in enumerate(line["loss"])
    ]
    return pd.DataFrame(rows, columns=["step", "probe", "row", "loss"])
