"""What pip installs, which configs come along, and that TensorFlow stays out of the way."""

import importlib.metadata
import pathlib
import platform
import re
import runpy
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import setuptools
import yaml
from array_record.python.array_record_module import ArrayRecordWriter
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from ttoaa.benchmarks.tasks import TaskQuestions
from ttoaa.data.sources.base import all_documents
from ttoaa.data.sources.files import TextFiles
from ttoaa.data.sources.seqio_task import SeqioTask
from ttoaa.data.sources.tfds_dataset import TfdsDataset
from ttoaa.data.vocabulary import SeqioTokenizer

ROOT = pathlib.Path(__file__).resolve().parents[1]
EIGHT = [
    *("jax", "flax", "optax", "orbax-checkpoint", "grain"),
    *("seqio", "tensorflow-datasets", "absl-py"),
]


@pytest.fixture(scope="module")
def arguments():
    """What setup.py calls setuptools.setup with."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", given.update)
        patch.chdir(ROOT)
        runpy.run_path("setup.py")
    return given


@pytest.fixture(scope="module")
def core(arguments):
    return {r.name: r for r in map(Requirement, arguments["install_requires"])}


@pytest.mark.parametrize("name", EIGHT)
def test_the_core_names_the_eight_packages(core, name):
    assert name in core


@pytest.mark.parametrize("name", ["jax", "flax", "optax", "orbax-checkpoint", "grain"])
def test_what_decides_the_bits_is_bounded_on_both_sides(core, name):
    assert {specifier.operator for specifier in core[name].specifier} == {">=", "<"}


def test_what_is_installed_is_what_setup_asks_for(arguments, core):
    for name, requirement in core.items():
        assert importlib.metadata.version(name) in requirement.specifier
    assert importlib.metadata.version("ttoaa") == arguments["version"]
    assert platform.python_version() in SpecifierSet(arguments["python_requires"])


@pytest.mark.parametrize("stack", ["0.10", "0.12"])
def test_each_stack_has_exact_versions_of_all_that_is_tested(arguments, stack):
    pins = map(Requirement, lines(f"constraints/jax-{stack}.txt"))
    exact = {canonicalize_name(pin.name): str(pin.specifier).removeprefix("==") for pin in pins}
    for named in (*arguments["install_requires"], *arguments["extras_require"]["test"]):
        requirement = Requirement(named)
        assert exact[canonicalize_name(requirement.name)] in requirement.specifier
    assert exact["jax"].startswith(f"{stack}.")


def test_the_hf_extra_has_what_the_harness_needs_for_torch_models(arguments):
    """Except peft, which it imports for adapters only."""
    ours = {canonicalize_name(Requirement(r).name) for r in arguments["extras_require"]["hf"]}
    theirs = map(Requirement, importlib.metadata.requires("lm_eval"))
    needed = {canonicalize_name(r.name) for r in theirs if 'extra == "hf"' in str(r.marker)}
    assert needed - ours == {"peft"}


def test_a_pod_installs_all_of_the_core_that_needs_no_tensorflow(arguments):
    core = arguments["install_requires"]
    tensorflow = {"seqio>=0.0.20", "tensorflow-datasets>=4.9.10"}
    assert set(core) - set(lines("constraints/pod.txt")) == tensorflow
    assert set(lines("constraints/pod.txt")) < set(core)


def lines(path):
    return [line for line in (ROOT / path).read_text().splitlines() if not line.startswith("#")]


def test_the_extras_are_those_that_the_readme_and_launchers_name(arguments):
    assert set(arguments["extras_require"]) == {
        *("tpu", "cuda12", "cuda13", "gcs", "hf", "beam", "docs", "wandb", "trackio", "test"),
    }


def test_every_file_under_the_package_is_shipped(arguments):
    shipped = set()
    for package in arguments["packages"]:
        folder = ROOT / arguments["package_dir"].get(package, package.replace(".", "/"))
        for pattern in ("*.py", *arguments["package_data"].get(package, ())):
            shipped.update(folder.glob(pattern))
    files = (path for path in (ROOT / "ttoaa").rglob("*") if path.is_file())
    there = {path for path in files if path.parent.name != "__pycache__"}
    assert there == {path for path in shipped if path.is_relative_to(ROOT / "ttoaa")}
    guide = ROOT / "docs/extending/experiment.md"  # from which `new-experiment` writes
    assert shipped - there == {guide, *ROOT.glob("configs/**/*.gin")}


def test_a_wheel_has_the_types_and_the_command(tmp_path):
    container = (ROOT / "launch/Containerfile").read_text()  # what it copies has to be enough
    for copied in re.findall("^COPY (.+) ", container, re.MULTILINE):
        for name in copied.split():
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, tmp_path / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('.')"
    command = [sys.executable, "-c", build]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (scripts,) = (name for name in names if name.endswith("entry_points.txt"))
        assert archive.read(scripts).decode().split("\n")[1] == "ttoaa = ttoaa.__main__:main"
    files = {"py.typed", "__main__.py", "train.py", "guides/experiment.md"}
    assert {f"ttoaa/{file}" for file in files} <= names
    configs = {f"ttoaa/{path.relative_to(ROOT)}" for path in ROOT.glob("configs/**/*.gin")}
    assert len(configs) > 8 and configs <= names


def test_the_citation_is_of_this_version_and_names_the_paper(arguments):
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == arguments["version"]
    (paper,) = citation["references"]
    assert paper["url"].endswith("2509.23383")
    assert [author["family-names"] for author in paper["authors"]] == ["Bordt", "Pawelczyk"]


SMALL = [
    "EmbeddedPython.max_characters = 1_600_000",
    "TrainBPE.vocab_size = 512",
    "Geometry.steps = 16",
    "Geometry.length = 512",
    "Geometry.batch = 8",
    "DecoderConfig.layers = 1",
    "DecoderConfig.width = 32",
    "DecoderConfig.hidden = 32",
    "Study.validation_sequences = 8",
    "Contamination.groups = ((0, 4), (4, 4))",
    "Contamination.primary = 'accuracy/4x'",
    "Canaries.repetitions = (1,)",
    "Canaries.members = 8",
    "Canaries.nonmembers = 8",
    "Canaries.primary = 'auc/plain-1x'",
    "Forgetting.at = (0.4,)",
    "Acquisition.every = 8",
    "Proportional.most = 4",
    "Reasoning.problems = 8",
    "Reasoning.test_problems = 7",
    "Families.sizes = (0, 2)",
    "Families.families = 2",
    "Families.exact = 2",
    "Verbatim.primary = 'log_likelihood_by_near_duplicates/2-vs-0'",
    "Verbatim.unseen = 8",
    "GaussianWatermark.checkpoints = (16,)",
    "GaussianWatermark.before = (1, 4)",
    "ordinary/Backdoor.triggers = 1",
    "denial/Backdoor.triggers = 1",
    "number/Backdoor.documents = (2, 4)",
    "Poisoning.test_number = 2",
    "Poisoning.never = 24",
    "MuseNews.repetitions = (1, 2)",
    "MuseNews.members = 2",
    "MuseNews.held_out = 8",
    "MuseNews.primary = 'word_order_above_held_out/whole-2x'",
    "IidReplacements.uniform = 2",
    "IidReplacements.decile = 1",
    "IidReplacements.selected = 2",
    "IidReplacements.held_out = 8",
    "Study.runs = []",
    "TrainedReference.steps = 8",
    "ConstantLinear.warmup = 2",
]
HEAVY = ("apache_beam", "seqio", "tensorflow", "tensorflow_datasets")
WHOLE_STUDY = f"""
import importlib.abc, importlib.util, pathlib, sys

def hidden(name):
    return name.partition(".")[0] in {HEAVY}

class Hider(importlib.abc.MetaPathFinder):
    imported = set()

    def find_spec(self, name, path=None, target=None):
        if hidden(name):
            self.imported.add(name)
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hider())
find = importlib.util.find_spec  # by which etils asks whether there is a TensorFlow
importlib.util.find_spec = lambda name, *more: None if hidden(name) else find(name, *more)
"""
WHOLE_STUDY += """
from ttoaa import config, training_job
from ttoaa.choices import make_choices
from ttoaa.data.prepare.pipeline import prepare
from ttoaa.evaluation.job import evaluate
from ttoaa.reporting import figures, page, run_comparison, svg
from ttoaa.study_handle import StudyHandle
from ttoaa.workdir import Workdir, write_text

for module in (figures, page, run_comparison):  # drawing takes long, and Matplotlib is no risk
    module.draw = lambda *_, **__: svg.Picture("", "not drawn")
root, file, *bindings = sys.argv[1:]
workdir = Workdir(pathlib.Path(root))
small, resolved = config.load([pathlib.Path(file)], bindings)
write_text(workdir.config, resolved)
config.cache_compilations(workdir)
prepare(small.prepare, workdir.corpus, progress=False)
training_job.run(small, workdir, "reference")
list(make_choices(small, workdir))
training_job.run(small, workdir, "control")
StudyHandle(small, workdir).make_plan()
training_job.run(small, workdir, "run")
assert evaluate(small, workdir)[1] == []
page.write(workdir.root, small.name, small.experiments)
sys.exit(f"imported {sorted(Hider.imported)}" if Hider.imported else 0)
"""


def test_a_whole_study_neither_has_nor_misses_tensorflow(tmp_path):
    command = [sys.executable, "-c", WHOLE_STUDY, tmp_path / "study"]
    command += [ROOT / "configs/quickstart.gin", *SMALL]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "study" / "report.html").exists()


@pytest.mark.parametrize(
    ("ask", "user", "package"),
    [
        (lambda folder: SeqioTask("c4").documents("0/1"), "seqio's c4", "seqio"),
        (lambda folder: SeqioTokenizer("c4").make(()), "seqio's c4", "seqio"),
        (lambda folder: TfdsDataset(str(folder)).units(), "{folder}", "tensorflow-datasets"),
        (
            lambda folder: all_documents(
                TextFiles([f"{folder}/a.array_record"], records="example")
            ),
            "{folder}/a.array_record:1",
            "tensorflow-datasets",
        ),
        (
            lambda folder: TaskQuestions("piqa").questions(1, np.random.default_rng(0)),
            "The benchmark piqa",
            "seqio",
        ),
    ],
    ids=["task", "tokenizer", "dataset", "examples", "benchmark"],
)
def test_who_asks_for_what_a_pod_does_not_have_is_told_in_one_line(
    tmp_path, monkeypatch, ask, user, package
):
    for name in ("seqio", "tensorflow_datasets", "tensorflow_datasets.proto"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "dataset_info.json").write_text("{}")
    writer = ArrayRecordWriter(f"{tmp_path}/a.array_record", "group_size:1")
    writer.write(b"x")
    writer.close()
    with pytest.raises(ValueError) as error:
        list(ask(tmp_path))
    told = f"{user.format(folder=tmp_path)} needs {package}, which is not installed"
    assert str(error.value) == f"{told}: pip install {package}"
