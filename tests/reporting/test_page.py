import dataclasses
import html.parser
import json
import math
import re
import xml.etree.ElementTree

import pytest
from reporting.synthetic import Fake, make_study

from ttoaa.experiments.report_labels import Label, ReportLabels
from ttoaa.reporting import page
from ttoaa.reporting.findings import NO_RUN_NOISE, terminal_lines
from ttoaa.reporting.number_formats import (
    format_duration,
    format_interval,
    format_number,
    format_quantity,
)
from ttoaa.reporting.other_studies import compare_primaries
from ttoaa.reporting.svg import draw
from ttoaa.workdir import Workdir

HOSTILE = "<script>alert('x')</script> \"&$a_b$</pre>"


class Reader(html.parser.HTMLParser):
    """Tags that are open at the end or closed out of turn, and every tag and attribute seen."""

    VOID = ("meta", "input")

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.links, self.words = [], set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [v for k, v in attrs if k in ("src", "href", "srcset", "action")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.add(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    def text(self):
        return " ".join(" ".join(self.words).split())


def written(root, *args, **kwargs):
    experiments = make_study(root, *args, **kwargs)
    _, report = page.write(root, HOSTILE, experiments)
    return report.read_text()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The page of a study of one seed."""
    return written(tmp_path_factory.mktemp("plain"), {"a": ["0x", "4x", "16x"]})


def test_hostile_text_is_shown_not_run(tmp_path):
    reader = Reader(written(tmp_path, {"a": ["0x", HOSTILE.replace("/", "|")]}, text=HOSTILE))
    assert "script" not in reader.tags and reader.open == []
    assert reader.text().count(HOSTILE) >= 4  # title, heading, item, config
    assert HOSTILE.replace("/", "|") in reader.text()


def test_self_contained_and_well_formed(plain):
    reader = Reader(plain)
    assert reader.open == []
    assert reader.links and all(re.fullmatch(r"#[\w-]+|[\w.]+/?", x) for x in reader.links)
    ids = re.findall(r'\bid="([^"]*)"', plain)
    assert len(ids) == len(set(ids))
    for svg in re.findall(r"<svg.*?</svg>", plain, re.DOTALL):
        xml.etree.ElementTree.fromstring(svg.replace("xlink:href", "href"))


def test_the_finding_of_each_experiment_and_no_row_of_a_curve(tmp_path, monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Labelled(Fake):
        labels = ReportLabels(
            question="Does it learn?",
            outcomes={"loss": Label("loss on it", "nats"), "accuracy": Label("accuracy", "%")},
            curves=("accuracy/4x",),
        )

    make_study(tmp_path, {"a": ["0x", "4x", "16x"]})
    _, report = page.write(tmp_path, "study", [Labelled("a", "loss/16x", -1, "loss/0x")])
    text = Reader(report.read_text()).text()
    assert "Does it learn?" in text
    assert re.search(
        r"Loss on it \(16 repetitions\) is 0\.\d+ nats lower than in the control run, as expected "
        r"\(95% interval over items of one run: 0\.\d+ to 0\.\d+; corrected p\s.*\)\. "
        r"Placebo, expected to be 0: ",
        text,
    )
    (row,) = json.loads((tmp_path / "replication.json").read_text())["experiments"]
    assert row["finding"] in text and NO_RUN_NOISE in text
    monkeypatch.setenv("COLUMNS", "60")
    first, *rest, _, _ = terminal_lines([row])
    assert all(len(line) <= 60 for line in rest)
    assert first == "a: replicated" and all(line.startswith("  ") for line in rest)
    assert " ".join(map(str.strip, rest)) == f"Does it learn? {row['finding']}"
    table = text.partition("Other outcomes of a")[2].partition("Examples of its items")[0]
    assert table.count("4 repetitions") == 1  # of the loss


def test_says_what_ran_and_what_it_cost(tmp_path):
    text = Reader(written(tmp_path, {"a": ["0x", "4x"], "b": ["0x", "4x"]}, seeds=(0, 1))).text()
    for words in (
        "2 experiments in one training run",
        "A second paragraph with a caveat.",
        "does not include run-to-run noise",
        "in the expected direction",
        "The gross saving, which counts the experiment runs only, is 50.0%",
        "against 2 separate studies with one shared control run",
        "a separate run takes as many seconds as the pooled run",
        "versions.jax",
        "Seed by seed",
        "Tokens edited",
    ):
        assert words in text, words


def test_placebos_are_counted_and_experiments_without_one_named(tmp_path):
    make_study(tmp_path, {"a": ["0x", "4x"], "b": ["0x", "4x"], "c": ["0x", "4x"]}, seeds=(0, 1, 2))
    experiments = [
        Fake("a", "loss/4x", -1, "loss/0x"),
        Fake("b", "loss/4x", -1),
        Fake("c", "loss/4x", -1, "loss/4x"),  # not null: it gains 0.2
    ]
    _, report = page.write(tmp_path, "study", experiments)
    text = Reader(report.read_text()).text()
    assert re.search(r"\b[23] of 6 placebo intervals contain zero; 5\.7 are expected", text)
    assert "; ".join(f"c: loss (4 repetitions), seed {k}" for k in range(3)) + "." in text
    assert "Without a placebo: b." in text
    assert "declared one outcome and its direction before the run" in text
    assert "95% interval over runs" in text and "95% interval over items" in text


def test_only_what_was_declared_is_judged(plain):
    # In the list of results, over its section, and in the table of replications.
    assert re.findall(r'class="badge (\w*)"', plain) == ["unresolved"] * 3  # it has no placebo
    text = Reader(plain).text()
    assert "above the smallest effect, but no placebo is declared" in text


def test_shows_the_plan_that_the_run_recorded(plain):
    assert '<th scope="row">plan</th><td>run</td>' in plain and "ab" * 32 not in plain


def test_definitions_fill_lines_and_keep_lists():
    class Kind:
        """Summary.

        A paragraph of
        two lines:

        - an item of
          two lines
        - another
        """

    lines = ["Summary.", "A paragraph of two lines:", "- an item of two lines\n- another"]
    assert page.define(Kind) == lines


def test_a_figure_that_fails_is_one_line(tmp_path):
    @dataclasses.dataclass(frozen=True)
    class Broken(Fake):
        def figure(self, estimates, axes):
            estimates["no such column"]

    make_study(tmp_path, {"a": ["0x", "4x"]})
    with pytest.raises(
        ValueError, match=r"^figure of a: KeyError\('no such column'\) \(.*\.py:\d+\)$"
    ):
        page.write(tmp_path, "study", [Broken("a", "loss/4x", -1)])
    assert not Workdir(tmp_path).report.exists()


def test_other_studies_and_dependence_matrices_are_shown(tmp_path):
    small, large = tmp_path / "small", tmp_path / "study-of-a-rather-large-model"
    experiments = make_study(small, {"a": ["0x", "4x"]}, effect=0.1)
    page.write(large, "large", make_study(large, {"a": ["0x", "4x"]}, effect=0.2))
    picture = draw(lambda axes: axes.plot([1, 2], "o-"), "matrix", "2 tested cells")
    matrices = [page.Dependence("Step 10", "2 tested cells.", picture)]
    _, report = page.write(small, "small", experiments, (), None, matrices, [large])
    text = Reader(report.read_text()).text()
    assert "Step 10 2 tested cells." in text
    gains = re.findall(r"(small|model) 0\.(\d)\d+ 0\.\d+ to 0\.\d+ over items 1 unresolved", text)
    assert gains == [("small", "1"), ("model", "2")]
    places = re.findall(
        r'<text x="(\d+)" y="\d+">(small|study-of-a-rather-large-m…)<', report.read_text()
    )
    assert [name for _, name in places] == ["small", "study-of-a-rather-large-m…"]
    assert all(int(x) >= 6 * 26 for x, _ in places), "a label begins left of the chart"
    with pytest.raises(ValueError, match="is missing: run ttoaa report there first"):
        compare_primaries(small, [], experiments, [tmp_path])


def test_same_folder_same_files(tmp_path):
    experiments = make_study(tmp_path, {"a": ["0x", "4x"]})
    first = [path.read_bytes() for path in page.write(tmp_path, "study", experiments)]
    assert [path.read_bytes() for path in page.write(tmp_path, "study", experiments)] == first
    assert isinstance(json.loads(first[0]), list)


def test_no_page_without_the_control(tmp_path):
    experiments = make_study(tmp_path, {"a": ["0x", "4x"]}, steps=(60,))
    Workdir(tmp_path).table("control", 60, "a").unlink()
    with pytest.raises(ValueError, match="the control has no outcomes of 'a'"):
        page.write(tmp_path, "study", experiments)
    assert not Workdir(tmp_path).report.exists() and not Workdir(tmp_path).summary.exists()


def test_unfinished_study_says_so(tmp_path):
    experiments = make_study(tmp_path, {"a": ["0x", "4x"]}, steps=(30,))
    (Workdir(tmp_path).run("run") / "ledger.json").unlink()
    _, report = page.write(tmp_path, "study", experiments)
    text = Reader(report.read_text()).text()
    assert "The run has not ended: these are the outcomes at step 30 of 60" in text
    assert "Seed 0: the run has no ledger yet" in text


@pytest.mark.parametrize(
    "value, spread, text",
    [
        (0.123456, 0.02, "0.123"),
        (-0.5, 0.2, "−0.50"),
        (12345.6, 500.0, "12,346"),
        (3.14159, None, "3.14"),
        (0.0, None, "0.00"),
        (0.0, 0.0, "0.00"),
        (-0.0001, 0.05, "0.000"),
        (None, None, "–"),
        (math.nan, 1.0, "–"),
    ],
)
def test_number(value, spread, text):
    assert format_number(value, spread) == text


def test_interval():
    assert format_interval(-0.0123, 0.0456) == "−0.012 to 0.046"
    assert format_interval(0.00026, 0.38) == "0.00026 to 0.38"  # excludes zero
    assert format_interval(-0.38, -0.00026) == "−0.38 to −0.00026"
    assert format_interval(-0.00026, 0.38) == "0.00 to 0.38"
    assert format_interval(None, 1.0) == format_interval(math.nan, 1.0) == "no interval"
    assert format_interval(None, None, few=True) == "too few"


def test_duration_and_quantity():
    assert [format_duration(s) for s in (0.04, 59.9, 61, 3661)] == [
        "0.0 s", "59.9 s", "1 min 01 s", "1 h 01 min"]  # fmt: skip
    assert [format_quantity(n) for n in (950, 123456, 1.234e6, 5e15)] == [
        "950", "123.5k", "1.234M", "5.00e15"]  # fmt: skip
