"""The decision rule on synthetic rows of summary.json, and its table in a report."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest
import scipy
from reporting.synthetic import Fake, make_study

from ttoaa import config
from ttoaa.experiments.context import describe_experiments
from ttoaa.experiments.prior_finding import PriorFinding
from ttoaa.identity import differences
from ttoaa.json_io import read_json
from ttoaa.reporting import page
from ttoaa.reporting.replication import (
    CONTRADICTED,
    REPLICATED,
    UNRESOLVED,
    decide,
    gather_evidence,
    markdown_table,
    replication_table,
)
from ttoaa.statistics.bootstrap import across_seeds
from ttoaa.workdir import Workdir

CONFIGS = pathlib.Path(__file__).resolve().parents[2] / "configs"
PRIOR = PriorFinding("Some et al. 2024", "Repetition | helps.", "+1 point", "Table 1")


def rows(differences, name="a", placebos=(0.1, -0.1, 0.0), sham=0.0, reach=0.05, groups=30):
    """Rows of summary.json of one primary outcome, one for each seed and that of all seeds."""
    placebos = list(placebos)[: len(differences)]
    found = []
    for seed, (difference, placebo) in enumerate(zip(differences, placebos, strict=True)):
        found.append(
            {
                "experiment": name,
                "primary": True,
                "seed": seed,
                "difference": difference,
                "difference_ci_low": difference - reach,
                "difference_ci_high": difference + reach,
                "run_ci_low": None,
                "run_ci_high": None,
                "groups": groups,
                "runs": 1,
                "sham_difference": sham,
                "placebo": placebo,
                "placebo_ci_low": None if placebo is None else placebo - reach,
                "placebo_ci_high": None if placebo is None else placebo + reach,
            }
        )
    if len(found) > 1:
        whole = found[0] | {"seed": "all", "runs": len(found), "groups": groups * len(found)}
        whole["difference"] = float(np.mean(differences))
        whole |= {f"difference_ci_{side}": whole["difference"] + sign * reach / len(found) ** 0.5
                  for side, sign in (("low", -1), ("high", 1))}  # fmt: skip
        if len(found) >= 3:
            _, whole["run_ci_low"], whole["run_ci_high"] = across_seeds(differences)
        if None not in placebos:
            whole["placebo"] = float(np.mean(placebos))
        found.append(whole)
    return found


def judge(differences, smallest=0.0, placebo="loss/0x", **kwargs):
    """The decision on one experiment that is alone in its study."""
    experiment = Fake("a", "loss/x", -1, placebo, smallest_effect=smallest)
    evidence = gather_evidence(experiment, rows(differences, **kwargs))
    return decide([evidence])[0]


@pytest.mark.parametrize(
    ("differences", "smallest", "verdict", "reason"),
    [
        ((1.0, 1.1, 0.9), 0.0, REPLICATED, "above the smallest effect"),
        ((1.0, 1.1, 0.9), 0.5, REPLICATED, "above the smallest effect"),
        ((1.0, 1.1, 0.9), 0.9, UNRESOLVED, "Holm's correction; detectable: "),
        ((-1.0, -1.1, -0.9), 0.0, CONTRADICTED, "opposite sign"),
        ((-1.0, -1.1, -0.9), 2.0, CONTRADICTED, "opposite sign"),
        ((0.02, -0.01, 0.03), 0.5, CONTRADICTED, "within the smallest effect of zero"),
        ((0.02, -0.01, 0.03), 0.0, UNRESOLVED, "neither direction is significant"),
        ((1.0, -1.0, 0.3), 0.5, UNRESOLVED, "neither direction is significant"),
        ((0.0, 0.0, 0.0), 0.5, UNRESOLVED, "neither direction is significant"),
    ],
)
def test_each_verdict_over_three_runs(differences, smallest, verdict, reason):
    found = judge(differences, smallest)
    assert found.verdict == verdict and reason in found.reason


def test_a_contradiction_says_which_of_the_two_it_is():
    experiment = Fake("a", "loss/x", -1, "loss/0x", smallest_effect=0.5)
    for sign in (1, -1):
        small = rows(tuple(sign * d for d in (0.02, -0.01, 0.03)))
        (row,) = replication_table([experiment], small, {})["experiments"]
        assert row["verdict"] == CONTRADICTED and "against expectation" not in row["finding"]
        assert ". The difference is within the smallest effect of zero" in row["finding"]
    (row,) = replication_table([experiment], rows((-1.0, -1.1, -0.9)), {})["experiments"]
    assert "against expectation" in row["finding"] and row["reason"] not in row["finding"]


def test_the_interval_over_runs_decides_although_that_over_items_is_narrow():
    found = judge((1.0, 0.2, 0.1), reach=0.01)
    assert found.verdict == UNRESOLVED and "seeds would decide" in found.reason
    # As many seeds with the same mean and spread do decide; at power 0.8, far fewer do not.
    sd, mean = np.std((1.0, 0.2, 0.1), ddof=1), np.mean((1.0, 0.2, 0.1))
    n = found.seeds_needed
    critical = scipy.stats.t.isf(0.025, n - 1)
    assert scipy.stats.nct.sf(critical, n - 1, mean / sd * n**0.5) >= 0.8
    assert scipy.stats.nct.sf(critical, n - 2, mean / sd * (n - 1) ** 0.5) < 0.8


@pytest.mark.parametrize("seeds", [1, 2])
def test_fewer_than_three_seeds_are_judged_over_items_and_say_so(seeds):
    experiment = Fake("a", "loss/x", -1, "loss/0x")
    own = rows((1.0, 0.2)[:seeds], placebos=(0.01, -0.01))
    (row,) = replication_table([experiment], own, {})["experiments"]
    assert (row["verdict"], row["decided_over"]) == (REPLICATED, "items")
    number = "one run" if seeds == 1 else f"{seeds} runs"
    assert f"over items of {number}: " in row["finding"]
    assert row["over_runs"] is None
    unclear = rows((0.01, 0.02)[:seeds], placebos=(0.01, -0.01))
    (row,) = replication_table([experiment], unclear, {})["experiments"]
    assert row["verdict"] == UNRESOLVED and row["seeds_needed"] is None
    assert "3 seeds or more give an interval over runs" in row["reason"]


def test_an_interval_that_ends_at_the_smallest_effect_is_the_edge():
    for bound, verdict in ((0.199, REPLICATED), (0.201, UNRESOLVED)):
        assert judge((0.25,), bound, placebos=(0.0,), reach=0.05).verdict == verdict


def test_nothing_is_replicated_without_a_placebo_that_contains_zero():
    clear = (1.0, 1.1, 0.9)
    none = judge(clear, placebo="", placebos=(None, None, None))
    assert none.verdict == UNRESOLVED and "no placebo is declared" in none.reason
    shifted = judge(clear, placebos=(0.5, 0.51, 0.49))
    assert shifted.verdict == UNRESOLVED and "placebo differs from zero" in shifted.reason
    unclear = judge((1.0, -1.0, 0.3), placebos=(0.5, 0.51, 0.49))
    assert "; its placebo differs from zero; detectable" in unclear.reason
    # The opposite sign needs no placebo.
    assert judge((-1.0, -1.1, -0.9), placebos=(0.5, 0.51, 0.49)).verdict == CONTRADICTED


def test_a_finding_says_once_that_there_is_no_placebo():
    own = rows((1.0, 1.1, 0.9), placebos=(None, None, None))
    (row,) = replication_table([Fake("a", "loss/x", -1, "")], own, {})["experiments"]
    assert row["verdict"] == UNRESOLVED
    assert row["finding"].lower().count("no placebo is declared") == 1


def test_a_placebo_or_difference_without_an_interval_decides_nothing():
    experiment = Fake("a", "loss/x", -1, "loss/0x")
    for prefix, reason in (("placebo", "has no interval"), ("difference", "no interval")):
        (row,) = rows((1.0,), placebos=(0.0,))
        row |= {f"{prefix}_ci_low": None, f"{prefix}_ci_high": None}
        (found,) = decide([gather_evidence(experiment, [row])])
        assert found.verdict == UNRESOLVED and reason in found.reason


def test_a_missing_sham_is_shown_as_missing_and_changes_no_verdict():
    experiment = Fake("a", "loss/x", -1, "loss/0x")
    tables = [
        replication_table([experiment], rows((1.0, 1.1, 0.9), sham=sham), {})["experiments"][0]
        for sham in (None, 0.0, 1.0)
    ]
    assert [row["verdict"] for row in tables] == [REPLICATED] * 3
    assert [row["sham_difference"] for row in tables] == [None, 0.0, 1.0]


def test_the_correction_is_that_of_holm_over_all_primaries():
    seeds = [(1.0, 1.1, 0.9), (0.5, 0.8, 0.6), (0.1, 0.5, 0.9), (-0.4, -0.5, -0.3), (0.0, 0.3, 0.2)]
    names = "abcde"
    experiments = [Fake(n, "loss/x", -1, "loss/0x") for n in names]
    every = [row for n, d in zip(names, seeds, strict=True) for row in rows(d, n)]
    table = replication_table(experiments, every, {})
    p = np.array([scipy.stats.ttest_1samp(d, 0).pvalue for d in seeds])
    expected, largest = {}, 0.0
    for rank, k in enumerate(np.argsort(p)):
        largest = max(largest, (len(p) - rank) * p[k])
        expected[names[k]] = min(1.0, largest)
    assert {row["experiment"]: row["p"] for row in table["experiments"]} == pytest.approx(expected)
    verdicts = {row["experiment"]: row["verdict"] for row in table["experiments"]}
    assert verdicts["a"] == REPLICATED and verdicts["d"] == UNRESOLVED  # alone: p = 0.02
    assert judge(seeds[3]).verdict == CONTRADICTED


def test_an_experiment_without_an_interval_still_counts_in_the_family():
    experiments = [Fake(n, "loss/x", -1, "loss/0x") for n in "ab"]
    broken = [r | {"difference_ci_low": None, "difference_ci_high": None}
              for r in rows((0.2,), "b")]  # fmt: skip
    both = replication_table(experiments, rows((1.0, 1.1, 0.9)) + broken, {})["experiments"]
    assert both[0]["p"] == pytest.approx(2 * judge((1.0, 1.1, 0.9)).p)
    assert both[1]["p"] == 1.0


def test_tost_agrees_with_the_90_percent_interval():
    differences = (0.02, -0.11, 0.13)
    mean, error = np.mean(differences), scipy.stats.sem(differences)
    edge = abs(mean) + scipy.stats.t.isf(0.05, 2) * error
    assert judge(differences, 1.001 * edge).verdict == CONTRADICTED
    assert judge(differences, 0.999 * edge).verdict == UNRESOLVED


@dataclasses.dataclass(frozen=True)
class Published(Fake):
    """An experiment that replicates something."""

    prior = PRIOR


def test_the_table_as_markdown_has_one_row_for_each_experiment():
    experiments = [Published("a", "loss/x", -1, "loss/0x"), Fake("b", "loss/x", -1, "loss/0x")]
    table = replication_table(experiments, rows((1.0, 1.1, 0.9)) + rows((0.1, 0.2, -0.3), "b"), {})
    head, _, first, second = markdown_table(table).splitlines()
    assert "Some et al. 2024: Repetition \\| helps." in first and "**replicated**" in first
    assert "+1 point (Table 1)" in first and "falls by more than 0" in first
    assert second.startswith("| b | – | – |") and "**unresolved**" in second
    assert head.count(" | ") == second.count(" | ")


def test_the_report_writes_the_table_and_compares_alone_with_together(tmp_path):
    conditions = ["0x", "4x"]
    made = make_study(tmp_path, {"a": conditions, "b": conditions}, (0, 1, 2), (60,))
    experiments = [Published(each.name, each.primary, -1, "loss/0x") for each in made]
    for seed in (0, 1):  # alone, 'a' has the outcomes of its run in another study
        folder = Workdir(tmp_path, seed)
        (folder.run("alone/a")).mkdir(parents=True)
        target = folder.table("alone/a", 60, "a")
        target.parent.mkdir(parents=True)
        target.write_bytes(Workdir(tmp_path, seed + 1).table("run", 60, "a").read_bytes())
    _, report = page.write(tmp_path, "study", experiments)
    table = read_json(tmp_path / "replication.json")
    a, b = table["experiments"]
    assert a["prior"] == dataclasses.asdict(PRIOR) and b["alone"] == []
    assert [row["seed"] for row in a["alone"]] == [0, 1, "all"]
    for row in a["alone"]:
        assert row["paired"] and row["over"] == "items" and row["low"] < row["high"]
        assert math.isclose(row["difference"], row["together"] - row["alone"], abs_tol=1e-9)
    text = report.read_text()
    assert "Alone against together" in text and "Some et al. 2024" in text
    assert a["verdict"] in text and a["reason"].split(";")[0] in text
    assert (tmp_path / "replication.md").read_text() == markdown_table(table)


def test_a_contrast_within_the_run_is_compared_without_pairing(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Within(Fake):
        def estimates(self, run, control):
            return super().estimates(run, run.assign(value=run["value"] + 0.5))

    make_study(tmp_path, {"a": ["0x", "4x"]}, steps=(60,))
    folder = Workdir(tmp_path)
    folder.run("alone/a").mkdir(parents=True)
    folder.table("alone/a", 60, "a").parent.mkdir(parents=True)
    folder.table("alone/a", 60, "a").write_bytes(folder.table("control", 60, "a").read_bytes())
    page.write(tmp_path, "study", [Within("a", "loss/4x", -1, "loss/0x")])
    ((row,),) = (each["alone"] for each in read_json(tmp_path / "replication.json")["experiments"])
    assert not row["paired"] and row["difference"] == pytest.approx(0)


def test_every_experiment_of_the_pooled_study_names_what_it_replicates():
    study, _ = config.load([CONFIGS / "all_ten.gin"])
    table = replication_table(
        study.experiments, [r for e in study.experiments for r in rows((0.1,), e.name)], {}
    )
    assert len(table["experiments"]) == 10
    for row in table["experiments"]:
        assert all(row["prior"].values()) and row["prior"]["finding"].endswith(".")


def test_the_smallest_effect_cannot_change_after_the_plan():
    before, after = (Fake("a", "loss/x", -1, smallest_effect=s) for s in (0.0, 0.5))
    plans = [describe_experiments([each]) for each in (before, after)]
    assert [d.path for d in differences(*plans)] == ["experiments.a.smallest_effect"]
