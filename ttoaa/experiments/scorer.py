"""What an experiment may ask of a model: `Scorer` (a checkpoint of a run) and `Model`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pandas as pd

from ttoaa.data.tokenizer import Tokenizer
from ttoaa.scoring.requests import Sampling

if TYPE_CHECKING:  # commands that only plan do not import JAX
    from ttoaa.scoring.likelihood import Moments


class Model(Protocol):
    """What a model can be asked: a checkpoint of a run, or the study's reference model.

    A request is (tokens int[n], start) with 1 <= start < n and asks for tokens[start:], each given
    all tokens before it. The result for a request does not depend on the other requests.
    """

    @property
    def tokenizer(self) -> Tokenizer: ...

    def log_likelihood(self, requests: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Return for each request float32[n - start]: log p(tokens[i] | tokens[:i]) in nats."""
        ...

    def greedy_matches(self, requests: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Return for each request bool[n - start]: whether tokens[i] is the likeliest token there.

        All are exactly if greedy generation from tokens[:start] gives tokens[start:].
        """
        ...

    def vocabulary_moments(self, requests: Sequence[tuple[np.ndarray, int]]) -> "list[Moments]":
        """Return the log-likelihoods with their mean and standard deviation under the model.

        Min-K%++ needs them (see `scoring.attacks`).
        """
        ...

    def least_likely(
        self, prompts: Sequence[np.ndarray], count: int, among: np.ndarray
    ) -> np.ndarray:
        """Return int32[n, count]: the least likely tokens after each prompt, of those `among`."""
        ...

    def embedding_gradients(self, requests: Sequence[tuple[np.ndarray, int]]) -> list[np.ndarray]:
        """Return for each request float32[n, D]: the gradient of its summed log-likelihood with
        respect to its input embeddings."""
        ...

    def generate(
        self,
        prompts: Sequence[np.ndarray],
        sampling: Sampling,
        keys: Sequence[int | str] | None = None,
    ) -> list[np.ndarray]:
        """Return the new tokens of each prompt (see `scoring.generation.generate`)."""
        ...


class Scorer(Model, Protocol):
    """One checkpoint of one run, as `Experiment.outcome` receives it."""

    @property
    def step(self) -> int:
        """The number of updates of the checkpoint."""
        ...

    @property
    def items(self) -> pd.DataFrame:
        """The experiment's items as planned: columns id, condition, repetitions, tokens, window,
        text, and one column for each of the items' fields."""
        ...

    @property
    def copies(self) -> pd.DataFrame:
        """Where the full run has the copies of the items: columns id, repetition, position, offset,
        step.

        `position` is step * batch + row, `offset` the first token of the row that it overwrites.
        """
        ...

    @property
    def probes(self) -> pd.DataFrame:
        """The experiment's probes up to `step`: columns step, probe, row, loss (nats a token)."""
        ...

    @property
    def arm_losses(self) -> pd.DataFrame:
        """The loss of the tokens of each condition, in every step up to this checkpoint.

        Columns: step, condition, loss (nats a token, before the update of the step), targets (their
        number). The corpus text of the step has the condition ''. A run without this experiment's
        edits has only that.
        """
        ...

    @property
    def decisions(self) -> pd.DataFrame:
        """The decisions of the experiment's controllers up to `step`.

        Columns: interval, step, slots, log_p (list of float, nats), and chosen (list of int) and
        state (dict), which are None in a control run.
        """
        ...

    def reserve(self, windows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return int32[n, L]: the reserve windows with these numbers, such as `items["window"]`."""
        ...

    def rows(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return int32[n, L]: rows of the stream at positions (step * batch + row) of training.

        They are those of the study's full run: the corpus with the plan's edits, in which a
        controller's slots keep the corpus text. For a run with the experiment and without some
        others, such as alone/NAME, they are that run's own.
        """
        ...

    @property
    def edited_rows(self) -> np.ndarray:
        """int64[n], ascending: the positions of all rows into which an experiment wrote text."""
        ...

    def masked(self, positions: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return bool[n]: the rows that the repetition filter takes out of the loss."""
        ...

    def noise(self, positions: Sequence[int] | np.ndarray, fresh: int = 0) -> np.ndarray:
        """Return float32[n, L, D]: the unit noise of these rows, to the bit of training.

        Any other `fresh` than 0 gives independent noise that no run was trained with.
        """
        ...

    @property
    def reference(self) -> Model:
        """The study's reference model, the same for every run and step.

        An experiment that asks it overrides `Experiment.needs_reference`.
        """
        ...
