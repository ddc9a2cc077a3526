"""The price of a study before it is prepared: figures, what is unknown, and how it is printed."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest
import studies
from fakes import Planted

from ttoaa import config, plan
from ttoaa.price.estimate import price
from ttoaa.price.hardware import CHIP_TYPES, parse_hardware
from ttoaa.price.memory import least_memory
from ttoaa.price.published_mfu import MEASURED, comparable
from ttoaa.price.stand_in import expected_insertions
from ttoaa.price.text import price_text
from ttoaa.scoring.membership import auc
from ttoaa.statistics.power import Precision
from ttoaa.training.checkpoints import Keep

ROOT = pathlib.Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"
PAPER_FLOPS = (6 * (1_484_916_736 - 100_352 * 2048) + 6 * 16 * 2048 * 4096) * 209_715_200_000


def load(*names):
    return config.load([CONFIGS / name for name in names])[0]


COMPILED = {"hbm_gib": 54.6, "capacity_gib": 95.74, "fits": True, "implied_mfu": 0.72}
STUDIES = ("paper.gin", "olmo2_1b_exp.gin", "all_ten.gin")


@pytest.fixture(scope="module")
def priced():
    """The prices of three configs by name, the first two on v5p-128; and of the first on GPUs."""
    pod = parse_hardware("v5p-128")
    found = {name: price(load(name), 0.4, pod, 3.5, COMPILED) for name in STUDIES[:2]}
    found["all_ten.gin"] = price(load("all_ten.gin"), 0.4)
    return found | {"gpus": price(load("paper.gin"), 0.4, parse_hardware("8xH100"))}


def insertions(found):
    return {e["name"]: e["insertions"] for e in found["experiments"] if e["insertions"]}


@pytest.mark.parametrize(
    ("text", "chip", "chips", "topology"),
    [
        ("v5p-128", "v5p", 64, "v5p:4x4x4"),  # its number counts TensorCores
        ("v5p-64", "v5p", 32, "v5p:2x4x4"),
        ("v4-8", "v4", 4, "v4:2x2x1"),
        ("v5litepod-16", "v5e", 16, "v5e:4x4"),
        ("v6e-8", "v6e", 8, "v6e:2x4"),
        ("v5p:4x4x6", "v5p", 96, "v5p:4x4x6"),
        ("8xH100", "H100", 8, None),
        ("64xv5p", "v5p", 64, None),
        ("tpu7x:2x2x2", "TPU7x", 8, "tpu7x:2x2x2"),
    ],
)
def test_hardware_has_the_names_of_clouds(text, chip, chips, topology):
    found = parse_hardware(text)
    assert (found.chip.name, found.chips, found.topology) == (chip, chips, topology)
    assert found.devices == chips * (2 if chip == "TPU7x" else 1)


@pytest.mark.parametrize(
    "text", ["v5p-12", "v5p-127", "v5p-0", "0xH100", "8xP100", "H100", "v5p:4"]
)
def test_other_hardware_is_refused(text):
    with pytest.raises(ValueError, match=f"--hardware={text} "):
        parse_hardware(text)


def test_published_figures_follow_from_what_their_sources_state():
    """Tokens, seconds and chips of the sources, and the shapes of their models."""

    def flops(layers, width, parameters, vocabulary):
        return 6 * (parameters - vocabulary * width) + 6 * layers * width * 4096

    llama = 18 * (4 * 2048**2 + 3 * 2048 * 5632) + 2 * 100_352 * 2048
    per_chip = {  # FLOPs per token, tokens per second and chip
        1.43e9: (flops(16, 2048, 1_431_373_824, 128_256), 23_999_807_488 / 54_527.1 / 16),
        0.60e9: (flops(24, 1024, 602_457_088, 128_256), 10_399_776_768 / 18_757.8 / 16),
        0.154e9: (flops(6, 512, 154_147_328, 128_256), 2_599_944_192 / 1_125.39 / 16),
        1.34e9: (flops(18, 2048, llama, 100_352), 55_000),
        1.485e9: (PAPER_FLOPS / 209_715_200_000, 209_715_200_000 / (15 * 86_400) / 8),
    }
    for each in MEASURED:
        if each.parameters in per_chip:
            of_token, rate = per_chip[each.parameters]
            assert of_token * rate / CHIP_TYPES[each.chip].peak_flops == pytest.approx(
                each.mfu, abs=0.005
            )
        else:
            assert "by the authors' count" in each.how
    assert [each.mfu for each in comparable("v5p", 1.485e9)] == [0.47]
    assert [each.mfu for each in comparable("H100", 1.485e9)] == [0.43, 0.40, 0.17]
    assert not comparable("v5p", 0.9e6), "no figure of a large model stands next to a small one"


def test_the_papers_run_has_its_price(priced):
    found = priced["paper.gin"]
    assert [run["name"] for run in found["runs"]] == ["control"]
    assert (found["tokens"], found["flops"]) == (209_715_200_000, PAPER_FLOPS)
    stated, published, compiled = found["hardware"]["at"]
    assert stated["chip_hours"] == pytest.approx(PAPER_FLOPS / (0.4 * 459e12) / 3600)
    assert stated["hours"] == pytest.approx(stated["chip_hours"] / 64)
    assert stated["price"] == pytest.approx(3.5 * stated["chip_hours"])
    assert (published["mfu"], compiled["mfu"]) == (0.47, 0.72)
    assert found["separate"] is None and found["experiments"] == []


def test_runs_and_separate_studies_are_those_of_the_report(priced, tiny_study):
    found = priced["all_ten.gin"]
    flops = {run["name"]: run["flops"] for run in found["runs"]}
    assert [*flops] == ["reference", "control", "run", "sham", "reordered", "reinitialised"]
    one, reference = flops["run"], flops["reference"]
    assert reference == one / 2  # 250 steps of 500
    separate = found["separate"]
    assert separate["pooled"] == found["flops"] == reference + 5 * one
    assert separate["shared"] == reference + (4 + 10) * one
    assert separate["own"] == reference + (4 + 1) * 10 * one
    longer = price(dataclasses.replace(tiny_study, runs=["run@30", "alone/late"]), 0.4)
    tokens = {run["name"]: run["tokens"] for run in longer["runs"]}
    assert tokens["run@30"] * 4 == tokens["alone/late"] == tiny_study.geometry.tokens
    assert longer["separate"]["pooled"] * 3.25 == longer["flops"] * 2, "checks are in no side"
    with pytest.raises(ValueError, match="run@40 begins after the last step, 40"):
        price(dataclasses.replace(tiny_study, runs=["run@40"]), 0.4)


def test_insertions_are_known_before_there_is_a_corpus(priced):
    found = insertions(priced["all_ten.gin"])
    assert priced["all_ten.gin"]["tokenizer"] == "stand-in"
    exact = {  # of the plans of configs/all_ten.gin
        "contamination": 5_800,
        "canaries": 2_520,
        "forgetting": 96,
        "reasoning": 500,
        "watermark": 128,
        "muse": 2_130,
        "iid": 156,
    }
    assert {name: found[name]["copies"] for name in exact} == exact
    tokens = {name: each["tokens"] for name, each in found.items()}
    assert tokens["canaries"] == 75_600 and tokens["iid"] == 156 * 256
    planned = {"contamination": 96_492, "reasoning": 76_553, "poisoning": 58_722, "muse": 64_215}
    assert {name: tokens[name] for name in planned} == pytest.approx(planned, rel=0.1)
    assert tokens["acquisition"] == 0
    assert found["acquisition"]["slots"] == pytest.approx(68_050, rel=0.1)
    unknown = {e["name"]: e["unknown"] for e in priced["all_ten.gin"]["experiments"]}
    assert "depend on the corpus" in unknown["verbatim"] and "verbatim" not in found
    text = price_text(priced["all_ten.gin"])
    assert re.search(r"verbatim +unknown:", text) and re.search(r"total +>23\.\d{3}%", text)
    assert "do not fit" not in text


def test_experiments_that_cannot_fit_are_said_not_to(tiny_study):
    crowded = dataclasses.replace(tiny_study, experiments=[Planted("many", repetitions=(0, 10**6))])
    text = price_text(price(crowded, 0.4))
    assert "The experiments do not fit" in text
    assert re.search(r"many +[\d,]+ +[\d.]+M +\d+\.\d{3}%\n", text)


def test_checkpoints_that_stay_are_counted(priced, tiny_study):
    paper = priced["paper.gin"]["storage"]  # float32 weights and two moments, and a counter
    assert paper["bytes_per_checkpoint"] == pytest.approx(12 * 1_484_916_736, rel=1e-6)
    assert paper["checkpoints"] == 100
    training = dataclasses.replace(tiny_study.training, keep=Keep(last=1, milestones=(5,)))
    study = dataclasses.replace(tiny_study, training=training, runs=["run@30"])
    assert price(study, 0.4)["storage"]["checkpoints"] == 2 + 2 + 1


def test_what_files_decide_is_unknown_and_the_rest_is_not(priced):
    found = priced["olmo2_1b_exp.gin"]
    unknown = {e["name"]: e["unknown"] for e in found["experiments"] if not e["insertions"]}
    assert [*unknown] == ["knowledge", "contamination", "contamination-window", "verbatim", "muse"]
    assert "corpora/contamination.parquet" in unknown["contamination"]
    share = {name: 1000 * each["share"] for name, each in insertions(found).items()}
    stated = {
        "memorization": 1.2,
        "watermark": 1.0,
        "poisoning": 1.1,
        "forgetting": 0.1,
        "iid": 7.1,
    }
    assert {name: round(share[name], 1) for name in stated} == stated  # as the config says
    assert share["reasoning"] == pytest.approx(1.0, abs=0.4)


class Failing(Planted):
    def intervene(self, world):
        raise KeyError("forgotten")


def test_an_experiment_that_fails_is_named_and_the_others_are_counted(tiny_study):
    study = dataclasses.replace(tiny_study, experiments=[Failing("bad"), Planted("good")])
    bad, good = expected_insertions(study)[0]
    assert (bad.insertions, bad.unknown) == (None, "'forgotten'")
    assert (good.insertions.copies, good.insertions.tokens) == (4 * (1 + 4), 4 * (1 + 4) * 9)


PRECISIONS = {
    "contamination": ((20, 300), 0.46),
    "canaries": ((60, 200), 0.17),
    "forgetting": ((6,), None),
    "acquisition": ((12, 12), None),
    "reasoning": ((49,), None),
    "verbatim": ((12, 12), None),
    "watermark": ((8,), 0.58),
    "poisoning": ((8,), None),
    "muse": ((12, 36), None),
    "iid": ((8, 64), None),
}


def test_the_design_says_what_can_be_detected(priced):
    for each in priced["all_ten.gin"]["experiments"]:
        sizes, detectable = PRECISIONS[each["name"]]
        found = each["precision"]
        assert found["sizes"] == sizes, each["name"]
        assert (found["deviation"] is None) == (detectable is None), each["name"]
        if detectable:  # above what the report of that study measured: 0.34, 0.11 and 0.48
            assert found["detectable"] == pytest.approx(detectable, rel=0.02)
    by = {e["name"]: e["precision"] for e in priced["olmo2_1b_exp.gin"]["experiments"]}
    assert by["verbatim"] is None  # how many texts are completed, the reference model decides
    assert by["knowledge"]["detectable"] is None  # all topics share their decisions
    assert by["memorization"]["sizes"] == (4_000, 2_181)


def test_bounds_hold_for_scores_that_tell_nothing():
    rng = np.random.default_rng(0)
    members, nonmembers = 20, 50
    design = Precision.of_auc(members, nonmembers, "texts")
    drawn = rng.normal(size=(2, 2_000, members + nonmembers))
    aucs = [[auc(row[:members], row[members:]) for row in side] for side in drawn]
    error = design.deviation * np.sqrt(1 / members + 1 / nonmembers)
    assert np.std(np.subtract(*aucs)) == pytest.approx(error, rel=0.05)
    answers = rng.random((2, 2_000, 40)) < 0.5
    difference = np.subtract(*answers.mean(2))
    error = Precision.of_answers((40,), "questions").deviation / np.sqrt(40)
    assert np.std(difference) == pytest.approx(error, rel=0.05)
    assert Precision((5, 100), "texts", 1.0).detectable() is None


def test_the_least_memory_is_below_the_compilers():
    """The pods of docs/results.md."""
    table = (ROOT / "docs/results.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\d.]+[BM]) \| (\w+):([\dx]+) .*? ([\d.]+) of", table, re.MULTILINE)
    assert len(rows) == 7
    for size, chip, shape, compiled in (rows[0], rows[1], rows[4]):  # two chips and two sizes
        study = load("paper.gin", f"sizes/olmo2-{size.lower()}.gin", f"pods/{chip}-{shape}.gin")
        found = least_memory(study, parse_hardware(f"{chip}:{shape}"))
        assert 0.5 * float(compiled) < found.total < float(compiled), (size, chip)


def test_what_does_not_fit_is_said_with_what_may(priced):
    text = " ".join(price_text(priced["gpus"]).split())
    assert "it does not fit. Execution.microbatch = 64 or less may fit." in text
    fitted = least_memory(load("paper.gin", "pods/h100-8.gin"), parse_hardware("8xH100"))
    assert fitted.total < 0.7 * fitted.capacity


def test_a_price_is_readable_in_80_columns(priced):
    for found in priced.values():
        text = price_text(found)
        assert max(map(len, text.splitlines())) <= 80
        assert "upper bounds" in text and "None" not in text and "nan" not in text
    text = price_text(priced["olmo2_1b_exp.gin"])
    assert "72% (compiler: an upper bound)" in text
    flat = " ".join(text.split())
    assert "54.6 of 95.74 GiB a chip: it fits. Steps with noise on embeddings need more:" in flat
    assert "noise on embeddings" not in price_text(priced["paper.gin"])
    assert "n = 4,000 and 2,181 (canaries): at most" in text
    assert "n = 9 (batches): 1.07 SD" in text


def test_the_command_needs_neither_a_folder_nor_a_corpus(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    flag = f"--gin_file={CONFIGS / 'quickstart.gin'}"
    assert studies.main(plan, "", "--dry_run", flag, "--format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["study"] == "quickstart" and len(found["experiments"]) == 10
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dry_run"], "name the study's config by --gin_file"),
        ([], "--workdir is required"),
        (["--mfu=0.5"], "--mfu needs --dry_run"),
        (["--dry_run", "--price_per_chip_hour=3"], "needs --hardware"),
        (["--dry_run", "--gin_file=x.gin", "--hardware=9xH1"], "--hardware=9xH1 is unknown"),
        (["--dry_run", "--gin_file=x.gin", "--hardware=8xH100", "--compile"], "slices of TPUs"),
        (["--dry_run", "--gin_file=x.gin"], "bad config: gin file x.gin does not exist"),
        (["--dry_run", f"--gin_file={CONFIGS / 'paper.gin'}", "--hardware=9xH100"], "512 rows"),
    ],
)
def test_what_is_missing_is_said_in_one_line(flags, message):
    error = studies.main(plan, "", *flags)
    assert message in error and "\n" not in error
