import numpy as np
import pytest

from ttoaa.data.repetition_filter import RepetitionFilter

OLMO = RepetitionFilter()


def repeats(row, rule):
    """The rule on one row, spelled out: some pattern, so many times over, stands somewhere."""
    times = max(3, rule.max_count)
    return any(
        row[start : start + period * times] == row[start : start + period] * times
        for period in range(rule.min_period, rule.max_period + 1)
        for start in range(len(row) - period * times + 1)
    )


def olmo_repeats(row, rule):
    """As OLMo looks for them: the row cut into lines of one period, lines like the one before."""
    for period in range(rule.min_period, min(rule.max_period, len(row) // 3) + 1):
        same = [i >= period and row[i] == row[i - period] for i in range(len(row))]
        lines = [range(i, i + period) for i in range(0, len(row) - period + 1, period)]
        whole = [line for line in lines if all(same[i] for i in line)]
        for line in whole:
            start, stop = line[0], line[-1] + 1
            while start > 0 and same[start - 1]:
                start -= 1
            while stop < len(row) and same[stop]:
                stop += 1
            times = (stop - start + period) // period
            if times > 2 and times >= rule.max_count:
                return True
    return False


def check(tokens, rule):
    ours = rule.repeats(tokens)
    assert ours.dtype == bool
    rows = tokens.tolist()
    assert ours.tolist() == [repeats(row, rule) for row in rows]
    return ours


@pytest.mark.parametrize(
    "rule",
    [
        RepetitionFilter(1, 4, 3),
        RepetitionFilter(1, 3, 5),
        RepetitionFilter(2, 5, 3),
        RepetitionFilter(1, 13, 2),
        RepetitionFilter(3, 3, 4),
    ],
    ids=str,
)
def test_every_verdict_is_the_references(rule):
    rng = np.random.default_rng(1)
    masked = []
    for length, tokens in ((12, 2), (23, 5), (40, 30)):
        batch = rng.integers(0, tokens, (600, length), dtype=np.int32)
        for row in range(0, 600, 2):  # plant one: random noise rarely has long ones
            period = rng.integers(1, 6)
            start, stop = sorted(rng.integers(0, length + 1, 2))
            batch[row, start:stop] = np.resize(batch[row, :period], stop - start)
        ours = check(batch, rule)
        masked.append(ours.mean())
        assert ours.tolist() == [olmo_repeats(row, rule) for row in batch.tolist()]
    assert 0.02 < np.mean(masked) < 0.98


def planted(period, tokens, start, length=480):
    """A row of tokens that are all different but for a pattern over `tokens` of them."""
    row = np.arange(1000, 1000 + length, dtype=np.int32)
    row[start : start + tokens] = np.resize(np.arange(period), tokens)
    return row[None]


@pytest.mark.parametrize("at", ["start", "middle", "end"])
@pytest.mark.parametrize("period", [1, 2, 7, 13])
def test_32_repeats_are_masked_and_31_and_all_but_one_token_are_not(period, at):
    for tokens, masked in ((31 * period, False), (32 * period - 1, False), (32 * period, True)):
        start = {"start": 0, "middle": 5, "end": 480 - tokens}[at]
        row = planted(period, tokens, start)
        # With a period of 1 a token less is a repeat less.
        assert OLMO.repeats(row).tolist() == [masked] == [repeats(row[0].tolist(), OLMO)]


def test_a_pattern_of_14_tokens_is_not_looked_for():
    assert not OLMO.repeats(planted(14, 460, 3)).any()
    assert RepetitionFilter(max_period=14).repeats(planted(14, 460, 3)).all()


def test_a_constant_row_counts_under_a_period_above_one_too():
    constant = np.zeros((1, 64), np.int32)
    assert RepetitionFilter(2, 3, 32).repeats(constant).all()
    assert not RepetitionFilter(2, 3, 32).repeats(constant[:, :63]).any()


def test_a_row_shorter_than_a_pattern_is_not_masked():
    assert not OLMO.repeats(np.zeros((3, 5), np.int32)).any()
    assert not OLMO.repeats(np.zeros((3, 13), np.int32)).any()


def test_an_interrupted_pattern_counts_anew():
    row = planted(3, 190, 0)
    row[0, 95] = 7
    assert not OLMO.repeats(row).any()
    row[0, 95] = np.resize(np.arange(3), 190)[95]
    assert OLMO.repeats(row).all()


def heal(step, batch):
    """An edit that writes over the corpus' row 0."""
    batch["tokens"][0] = np.arange(480)
    return batch


def spoil(step, batch):
    batch["tokens"][1] = 0
    return batch


@pytest.mark.parametrize(
    ("when", "trained"),
    [("after_edits", [True, False, True]), ("before_edits", [False, True, True])],
)
def test_before_or_after_the_edits(when, trained):
    rows = [planted(2, 100, 9), planted(1, 1, 0), planted(1, 1, 0)]
    batch = {"step": 4, "tokens": np.concatenate(rows)}
    for transform in RepetitionFilter(when=when).among([heal, spoil]):
        batch = transform(4, batch)
    assert batch["trained"].tolist() == trained
    assert (batch["tokens"][1] == 0).all() and set(batch) == {"step", "tokens", "trained"}


def test_no_period_is_an_error():
    with pytest.raises(ValueError, match="max_period must not be less than min_period"):
        RepetitionFilter(min_period=9, max_period=8)
