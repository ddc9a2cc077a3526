import pathlib
import textwrap
from collections import Counter

import gin
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from scipy import stats
from sklearn.metrics import roc_auc_score

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.experiments.canaries import Canaries
from ttoaa.scoring.attacks import LossAttack, MinK, ZlibRatio
from ttoaa.statistics.bootstrap import keyed_rng

QUICKSTART = pathlib.Path(__file__).parents[3] / "configs/quickstart.gin"

KINDS = ("plain", "rare-1", "rare-8", "random-4")


def canaries(**changes):
    fields = {
        "name": "mia",
        "primary": "auc/rare-8-16x",
        "expected_sign": 1,
        "kinds": KINDS,
        "repetitions": (1, 16),
        "members": 5,
        "nonmembers": 7,
        "rare_tokens": "shared",
        "host_tokens": 16,
    }
    return Canaries(**(fields | changes))


def parts(item):
    """Host and suffix, without the EOS on both sides."""
    return item.tokens[1:17].tolist(), item.tokens[17:-1].tolist()


def test_members_and_nonmembers_have_one_generator(make_world, tokenizer):
    items = list(canaries().intervene(make_world(canaries())))
    assert Counter((i.condition, i.repetitions) for i in items) == {
        (f"{kind}-{r}x", r): (5 if r else 7) for kind in KINDS for r in (0, 1, 16)
    }
    assert len({i.id for i in items}) == len(items)
    suffixes = {kind: [parts(i)[1] for i in items if i.condition.startswith(kind + "-")]
                for kind in KINDS}  # fmt: skip
    assert all(suffix == [] for suffix in suffixes["plain"])
    # A rare kind has one reserved token, the same for its members and its non-members.
    rare = {kind: {tuple(s) for s in suffixes[kind]} for kind in ("rare-1", "rare-8")}
    (one,), (eight,) = rare["rare-1"], rare["rare-8"]
    assert len(one) == 1 and len(eight) == 8 and len(set(eight)) == 1 and one[0] != eight[0]
    assert {one[0], eight[0]} <= set(tokenizer.reserved_ids)
    flat = np.array(suffixes["random-4"])
    assert flat.shape == (17, 4) and len({tuple(s) for s in flat}) == 17
    assert flat.max() < tokenizer.reserved_ids.start and tokenizer.eos_id not in flat
    assert all(i.tokens[0] == i.tokens[-1] == tokenizer.eos_id for i in items)
    assert all(i.tokens.dtype == np.int32 for i in items)
    shown = f"⟨r{one[0] - tokenizer.reserved_ids.start}⟩"
    assert all(i.text.endswith(shown) for i in items if i.condition.startswith("rare-1-"))


def test_random_suffixes_are_uniform_over_ordinary_tokens(make_world, tokenizer):
    experiment = canaries(kinds=("random-40",), nonmembers=200, primary="auc/random-40-1x")
    items = experiment.intervene(make_world(experiment))
    drawn = np.bincount(
        np.concatenate([parts(i)[1] for i in items]), minlength=tokenizer.vocab_size
    )
    assert drawn[tokenizer.eos_id] == 0 and drawn[tokenizer.reserved_ids.start :].sum() == 0
    ordinary = np.delete(drawn[: tokenizer.reserved_ids.start], tokenizer.eos_id)
    assert ordinary.min() > 0 and ordinary.max() < 3 * ordinary.mean()


def test_hosts_are_disjoint_pieces_of_the_reserve(make_world, tokenizer):
    experiment = canaries()
    sizes = experiment.reserve_windows(Geometry(64, 4, 100))
    assert sizes == [13, 9]  # 4 kinds of 2 * 5 and of 7, with a quarter to spare, 4 to a window
    n = sum(sizes)
    # Every token of this reserve is there once, so that shared tokens would show.
    reserve = np.arange(1, 1 + n * 64, dtype=np.int32).reshape(n, 64)
    tokenizer_like = type("T", (), {"eos_id": 0, "reserved_ids": range(2000, 2008),
                                    "decode": lambda self, ids: ""})()  # fmt: skip
    world = make_world(experiment, reserve=reserve)
    object.__setattr__(world, "tokenizer", tokenizer_like)
    hosts = np.array([parts(i)[0] for i in experiment.intervene(world)])
    assert hosts.shape == (68, 16) and len(np.unique(hosts)) == 68 * 16
    assert (np.diff(hosts, axis=1) == 1).all() and np.isin(hosts, reserve).all()
    window = (hosts[:, 0] - 1) // 64
    assert (window == (hosts[:, -1] - 1) // 64).all()
    # The windows of members and of non-members, which share no document, are not mixed.
    repetitions = np.array([i.repetitions for i in experiment.intervene(world)])
    np.testing.assert_array_equal(repetitions == 0, window >= sizes[0])
    assert [i.fields["document"] for i in experiment.intervene(world)] == (500 + window).tolist()


def test_hosts_avoid_eos_and_repeats_while_there_are_others(make_world, tokenizer):
    experiment = canaries()
    reserve = make_world(experiment).reserve_NxL.copy()
    reserve[:3, ::16] = tokenizer.eos_id  # 12 of 52 pieces hold EOS: 40 are left for 40 members
    hosts = [parts(i)[0] for i in experiment.intervene(make_world(experiment, reserve=reserve))]
    assert not any(tokenizer.eos_id in host for host in hosts)
    reserve[:4, ::16] = tokenizer.eos_id  # now only 36 are left: 4 hosts of members cross an EOS
    items = list(experiment.intervene(make_world(experiment, reserve=reserve)))
    crossing = [i.repetitions > 0 for i in items if tokenizer.eos_id in parts(i)[0]]
    assert crossing == [True] * 4
    reserve = make_world(experiment).reserve_NxL.copy()
    reserve[1:4] = reserve[14]  # of the non-members
    hosts = [parts(i)[0] for i in experiment.intervene(make_world(experiment, reserve=reserve))]
    assert len({tuple(host) for host in hosts}) == 68
    with pytest.raises(ValueError, match=r"mia: .* too few distinct pieces"):
        list(experiment.intervene(make_world(experiment, reserve=np.ones_like(reserve))))


def test_members_and_nonmembers_have_hosts_of_one_quality(make_world, tokenizer):
    experiment = canaries(kinds=("plain", "rare-1"), members=200, nonmembers=400,
                          primary="auc/rare-1-16x")  # fmt: skip
    reserve = make_world(experiment).reserve_NxL.copy()
    reserve[1::29] = reserve[0]  # repeats, and documents so short that spare hosts run out
    reserve[keyed_rng("ends").random(reserve.shape) < 1 / 40] = tokenizer.eos_id
    items = list(experiment.intervene(make_world(experiment, reserve=reserve)))
    conditions = pd.Series([i.condition for i in items])
    crossing = pd.Series([tokenizer.eos_id in parts(i)[0] for i in items])
    assert 0.1 < crossing.mean() < 0.3
    # Replacing the first hosts first left 'plain-0x' without an EOS.
    assert stats.chi2_contingency(pd.crosstab(conditions, crossing)).pvalue > 0.01


def test_another_window_changes_only_what_was_cut_from_it(make_world):
    experiment = canaries()
    reserve = make_world(experiment).reserve_NxL.copy()
    before = [parts(i) for i in experiment.intervene(make_world(experiment, reserve=reserve))]
    cut = {tuple(row) for row in reserve[3].reshape(-1, 16).tolist()}
    reserve[3] = keyed_rng("other").integers(1, 200, 64)
    after = [parts(i) for i in experiment.intervene(make_world(experiment, reserve=reserve))]
    moved = [tuple(b[0]) for b, a in zip(before, after, strict=True) if a != b]
    assert moved and set(moved) <= cut


def test_items_depend_on_seed_and_name_alone(make_world, same_items):
    experiment = canaries()
    reserve = make_world(experiment).reserve_NxL

    def items(**changes):
        return list(experiment.intervene(make_world(experiment, reserve=reserve, **changes)))

    assert same_items(items(), items())
    assert not same_items(items(), items(seed=1))
    assert not same_items(items(), items(name="other"))


def test_outcome_is_the_likelihood_of_host_and_suffix(make_world, make_scorer, tokenizer):
    experiment = canaries()
    items = list(experiment.intervene(make_world(experiment)))
    model = make_scorer(items, lambda tokens, i: -1.0 - tokens[i])
    table = experiment.outcome(model)
    assert list(table["item"]) == [i.id for i in items]
    assert list(table["condition"]) == [i.condition for i in items]
    assert set(table["outcome"]) == {"log_likelihood"}
    by_hand = [-sum(1 + token for part in parts(i) for token in part) for i in items]
    np.testing.assert_allclose(table["value"], by_hand)
    assert all(tokens[0] == tokenizer.eos_id and start == 1 for tokens, start in model.requests)


def tables(experiment, nonmembers=30):
    """Members of 16 repetitions gain 3 nats over the control, others nothing; ten documents."""
    rng = np.random.default_rng(0)
    rows = [
        (f"{kind}-{r}x-{i}", f"{kind}-{r}x", "log_likelihood", rng.normal(), i // 3 % 10 + (r > 0))
        for kind in experiment.kinds
        for r in (0, *experiment.repetitions)
        for i in range(30 if r else nonmembers)
    ]
    control = pd.DataFrame(rows, columns=["item", "condition", "outcome", "value", "group"])
    gain = 3.0 * control["condition"].str.endswith("-16x")
    return control.assign(value=control["value"] + gain), control


def test_estimates_by_independent_reference():
    experiment = canaries(nonmembers=500)
    run, control = tables(experiment, 500)
    shuffled = control.sample(frac=1, random_state=1)
    found = {(e.outcome, e.condition): e for e in experiment.estimates(run, shuffled)}
    assert len(found) == 4 * 3 + 4 * 2 * 3 + 1
    assert {e.groups for e in found.values()} == {10, 5}
    gain = found["log_likelihood", "rare-8-16x"]
    assert gain.difference == pytest.approx(3) and gain.n == 30
    for condition in ("rare-8-16x", "plain-1x"):
        kind = condition.rpartition("-")[0]
        area = {}
        for which, table in (("run", run), ("control", control)):
            values = table.set_index("condition")["value"]
            scores = np.concatenate([values[condition], values[f"{kind}-0x"]])
            area[which] = roc_auc_score([1] * 30 + [0] * 500, scores)
        estimate = found["auc", condition]
        assert estimate.value == pytest.approx(area["run"])
        assert estimate.control_value == pytest.approx(area["control"])
        assert estimate.difference == pytest.approx(area["run"] - area["control"])
        above = found["log_likelihood_above_nonmembers", condition]
        mean = run.groupby("condition")["value"].mean()
        assert above.value == pytest.approx(mean[condition] - mean[f"{kind}-0x"])
        assert above.difference == pytest.approx(3 if condition == "rare-8-16x" else 0)
    # With 500 non-members, 1% allows five false positives: members above the sixth count.
    members = run.set_index("condition")["value"]["rare-8-16x"]
    others = run.set_index("condition")["value"]["rare-8-0x"]
    share = (members.to_numpy() > np.sort(others)[-6]).mean()
    assert found["tpr_at_1pct_fpr", "rare-8-16x"].value == pytest.approx(share)
    # Below 500 there is no such rate.
    small = canaries(kinds=("plain",), nonmembers=499, primary="auc/plain-1x")
    fewer = small.estimates(*tables(small, 499))
    assert {e.outcome for e in fewer} == {
        "log_likelihood", "log_likelihood_above_nonmembers", "auc"
    }  # fmt: skip


def test_the_placebo_compares_nonmembers_of_different_documents():
    experiment = canaries()
    assert experiment.placebo == "auc/plain-0x"
    run, control = tables(experiment)
    rows = run[run["condition"] == "plain-0x"]
    label, score = rows["group"] % 2 == 0, rows["value"]
    (placebo,) = (
        e
        for e in experiment.estimates(run, control)
        if e.outcome + "/" + e.condition == experiment.placebo
    )
    assert placebo.value == pytest.approx(roc_auc_score(label, score)) and placebo.difference == 0
    assert (placebo.n, placebo.groups) == (15, 5) and np.isnan(placebo.ci_low)
    one = run.assign(group=0)
    experiment.estimates(one, one)
    assert canaries(nonmembers=1).placebo == ""


def test_every_attack_has_its_outcomes(make_world, make_scorer, final_table):
    experiment = canaries(
        attacks=[MinK(0.5), LossAttack(), ZlibRatio()],
        primary="auc_min_k/plain-16x",
        calibrate=["control"],
    )
    items = list(experiment.intervene(make_world(experiment)))
    control = experiment.outcome(make_scorer(items, lambda tokens, i: -1.0 - tokens[i] / 300))
    gain = control["item"].map({i.id: 0.2 * (i.repetitions == 16) for i in items})
    run = control.assign(value=control["value"] + gain)
    assert list(run["outcome"].unique()) == ["min_k", "log_likelihood", "zlib_ratio"]
    host, suffix = parts(items[0])
    lowest = sorted(-1 - token / 300 for token in host + suffix)[: len(host + suffix) // 2]
    assert run["value"][0] == pytest.approx(np.mean(lowest))
    found = {(e.outcome, e.condition): e for e in experiment.estimates(run, control)}
    assert {outcome for outcome, _ in found} == set(experiment.signs)
    # Only members of 16 repetitions gained, all of them as much: calibrated they stand out.
    for condition, value in (("plain-16x", 1.0), ("plain-1x", 0.5)):
        one = found["auc_by_control", condition]
        assert (one.value, one.control_value) == (value, 0.5)
    experiment.figure(final_table(list(found.values())), Figure().subplots())


def test_the_config_reaches_the_attacks(tmp_path):
    text = """
        include '{}'
        Canaries.attacks = (@LossAttack(), @MinK(), @strict/MinK())
        strict/MinK.share = 0.05
        strict/MinK.name = 'min_k_5'
        Canaries.primary = 'auc_min_k_5/plain-4x'
    """
    (tmp_path / "study.gin").write_text(textwrap.dedent(text.format(QUICKSTART)))
    study, resolved = config.load([tmp_path / "study.gin"])
    assert study.experiments[1].attacks == (LossAttack(), MinK(), MinK(0.05, "min_k_5"))
    (tmp_path / "again.gin").write_text(resolved)
    assert config.load([tmp_path / "again.gin"])[0] == study


def test_gin_makes_it():
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config("""
            Canaries.name = 'canaries'
            Canaries.primary = 'tpr_at_1pct_fpr/random-2-4x'
            Canaries.expected_sign = 1
            Canaries.kinds = ['plain', 'random-2']
        """)
        try:
            made = Canaries()
        finally:
            gin.clear_config()
    assert made.kinds == ["plain", "random-2"] and made.repetitions == (1, 4, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kinds": ("plain", "rare-0")}, "not 'rare-0'"),
        ({"kinds": ("plain", "model-8")}, "not 'model-8'"),
        ({"kinds": ("plain", "unlikely")}, "not 'unlikely'"),
        ({"members": (5, 5, 5)}, "members has 3 numbers for 2 numbers of repetitions"),
        ({"primary": "auc/rare-8-0x"}, "primary's condition"),
        ({"primary": "auc/rare-32-16x"}, "primary's condition"),
        ({"primary": "auc_min_k/plain-1x"}, "an outcome among .*'auc'"),
        ({"primary": "auc_suffix/rare-8-1x"}, "an outcome among .*'auc'"),
        ({"primary": "tpr_at_1pct_fpr/plain-1x"}, "needs at least 500 nonmembers, not 7"),
        ({"attacks": []}, "at least one"),
        ({"attacks": [MinK()], "exposure": True}, "exposure needs the loss attack"),
        ({"attacks": [MinK()], "in_place": True}, "in_place needs the loss attack"),
        ({"kinds": ("rare-8",), "exposure": True}, "exposure needs a kind 'random-<n>'"),
        ({"kinds": ("rare-8",), "unmatched": True}, "unmatched needs the kind 'plain'"),
        ({"kinds": ("plain",), "parts": True}, "parts needs a kind with a suffix"),
    ],
)
def test_bad_config_is_one_clear_line(changes, message):
    with pytest.raises(ValueError, match=message) as error:
        canaries(**changes)
    first, *by_gin = str(error.value).splitlines()
    assert first.startswith("mia: ") and all("In call to" in line for line in by_gin)


def test_what_does_not_fit_is_one_clear_line(make_world):
    with pytest.raises(ValueError, match=r"mia: .* are 26 tokens, .* a row of 25"):
        canaries().reserve_windows(Geometry(25, 4, 100))
    many = canaries(kinds=[f"rare-{n}" for n in range(1, 10)])
    with pytest.raises(ValueError, match=r"mia: 9 rare conditions .* has 8"):
        list(many.intervene(make_world(many)))
    own = canaries(kinds=[f"rare-{n}" for n in (1, 2, 3, 4, 8)], rare_tokens="own")
    with pytest.raises(ValueError, match=r"mia: 10 rare conditions .* or set rare_tokens to"):
        list(own.intervene(make_world(own)))
