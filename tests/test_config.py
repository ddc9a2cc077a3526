import dataclasses
import pathlib
import subprocess
import sys

import jax
import pytest
import studies
from absl import flags
from absl.testing import flagsaver

from ttoaa import config
from ttoaa.data.geometry import Geometry
from ttoaa.data.sources.files import TextFiles
from ttoaa.workdir import Workdir

QUICKSTART = pathlib.Path(__file__).parents[1] / "configs/quickstart.gin"


@pytest.fixture
def gin_file(tmp_path):
    return studies.write_gin(tmp_path / "gin", ["/data/text"])


def load(path, *bindings):
    return config.load([path], bindings)[0]


def error_of(path, *bindings):
    with pytest.raises(ValueError) as error:
        config.load([path], bindings)
    text = str(error.value)
    assert "\n" not in text and len(text) < 600
    return text


@pytest.mark.parametrize("given", ["/elsewhere", None])
def test_compilations_are_kept_in_the_study_unless_the_environment_says_where(
    given, tmp_path, monkeypatch
):
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    if given:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    before = jax.config.jax_compilation_cache_dir
    try:
        config.cache_compilations(Workdir(tmp_path))
        assert jax.config.jax_compilation_cache_dir == (given or str(tmp_path / ".cache/xla"))
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_a_study_is_what_its_file_says(gin_file):
    study = load(gin_file)
    assert study.name == "tiny" and study.geometry.steps == studies.STEPS
    assert [e.name for e in study.experiments] == ["planted", "late", "forgetting"]
    assert study.experiments[0].placement != study.experiments[1].placement
    assert study.prepare.source == TextFiles(["/data/text"], separator="\n%%\n")


def test_single_bindings_win_over_files_and_later_files_over_earlier(gin_file, tmp_path):
    later = tmp_path / "later.gin"
    later.write_text("Geometry.steps = 50\nGeometry.batch = 6\n")
    study = config.load([gin_file, later], ["Geometry.batch = 8"])[0]
    assert (study.geometry.steps, study.geometry.batch) == (50, 8)
    assert load(gin_file).geometry.batch == 4, "nothing is left of the load before"


@pytest.mark.parametrize("bindings", [(), ("Geometry.steps = 77", "late/Planted.items = 3")])
def test_the_saved_config_gives_an_equal_study(gin_file, tmp_path, bindings):
    study, text = config.load([gin_file], bindings)
    saved = tmp_path / "config.gin"
    saved.write_text(text)
    again, text_again = config.load([saved])
    assert again == study and text_again == text


def test_the_quickstart_reloads_to_an_equal_study(tmp_path):
    study, text = config.load([QUICKSTART])
    (tmp_path / "config.gin").write_text(text)
    assert load(tmp_path / "config.gin") == study
    assert len(study.experiments) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("Geometry.lenght = 3", "'Geometry' doesn't have a parameter named 'lenght'"),
        ("Geometri.length = 3", "No configurable matching 'Geometri': did you mean Geometry?"),
        ("Study.experiments = [@early/Forgeting()]", "did you mean Forgetting?"),
        ("earyl/Planted.items = 3", "nothing uses the binding of earyl/Planted.items"),
        ("planted/Geometry.steps = 3", "nothing uses the binding of planted/Geometry.steps"),
        ("experiments = [@Forgetting()]", "nothing uses the binding of experiments"),
        ("Cosine.peak = 3.0", "nothing uses the binding of Cosine.peak"),
        ("Study.geometry = %SHAPE", "no value is bound to the macro %SHAPE"),
        ("Geometry.length = [", "EOF in multi-line statement"),
        ("Geometry.length 3", "bad config: "),
        ("import ttoaa.experiments.nothing", "No module named 'ttoaa.experiments.nothing'"),
        ("include 'nothing.gin'", "nothing.gin"),
        (
            "Geometry.length = 'long'",
            "Geometry.length must be an integer of at least 2",
        ),
        ("Training.z_loss = 'x'", "Training.z_loss must be a number"),
        ("AdamW.beta1 = None", "AdamW.beta1 must be a number"),
        ("DecoderConfig.width = 1.5", "DecoderConfig.width must be an integer of at least 1"),
        (
            "Execution.microbatch = 0",
            "Execution.microbatch must be an integer of at least 1 or None",
        ),
        (
            "Study.geometry = 3",
            "Study.geometry must be a Geometry, as @Name()",
        ),
        ("AdamW.schedule = 0.1", "AdamW.schedule must be a LearningRateSchedule, as @Name()"),
        ("Study.geometry = @Geometry", "as @Name() with the parentheses"),
        ("AdamW.schedule = @ConstantLinear", "as @Name() with the parentheses"),
        ("Study.experiments = [@Forgetting]", "as @Name() with the parentheses"),
        (
            "Study.experiments = @Forgetting()",
            "must be a list of Experiment objects",
        ),
        ("Study.experiments = [3]", "Study.experiments[0] must be an Experiment, as @Name()"),
        (
            "Study.validation_sequences = -1",
            "must be an integer of at least 0, not -1",
        ),
        ("late/Planted.placement = 'late'", "Planted.placement must be"),
        ("late/Planted.name = 'a b'", "name must be letters"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_it(gin_file, line, message):
    assert message in error_of(gin_file, line)
    gin_file.write_text(f"{gin_file.read_text()}\n{line}\n")
    assert message in error_of(gin_file)


def test_a_missing_value_and_a_missing_file_are_named(gin_file, tmp_path):
    gin_file.write_text(gin_file.read_text().replace("Geometry.steps = 30", ""))
    assert "Geometry" in error_of(gin_file) and "steps" in error_of(gin_file)
    assert f"gin file {tmp_path / 'no.gin'} does not exist" in error_of(tmp_path / "no.gin")


def test_bindings_that_make_the_files_moot_are_fine(gin_file):
    study = load(gin_file, "Prepare.source = @EmbeddedPython()")
    assert "Python" in study.prepare.source.description


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("erly/Canaries.members = 5", "erly/Canaries.members"),
        ("experiments = [@Forgetting()]", "experiments"),
        ("later/Canaries.name = 'x'", "later/Canaries.name"),
    ],
)
@pytest.mark.parametrize(
    "single",
    [(), ("Study.name = 'x'",), ("Prepare.source = @TextFiles()", "TextFiles.paths = ['/x']")],
)
def test_a_mistyped_binding_of_a_file_is_named_whatever_is_given_singly(
    tmp_path, line, name, single
):
    path = tmp_path / "more.gin"
    path.write_text(f"{line}\n")
    with pytest.raises(
        ValueError, match=rf"nothing uses the binding of {name} \(more\.gin:1\): did you mean"
    ):
        config.load([QUICKSTART, path], single)


def test_only_what_single_bindings_replace_is_excused():
    text = "Prepare.source = @TextFiles()", "TextFiles.paths = ['/x']"
    assert load(QUICKSTART, *text).prepare.source == TextFiles(["/x"])
    assert len(load(QUICKSTART, "Study.experiments = [@Forgetting()]").experiments) == 1
    moot = "EmbeddedPython.max_characters = 3"
    assert "the binding of EmbeddedPython.max_characters" in error_of(QUICKSTART, *text, moot)


def test_experiments_by_name(gin_file):
    study = load(gin_file)
    assert config.only(study, None) is study
    picked = config.only(study, ["forgetting", "planted"]).experiments
    assert [e.name for e in picked] == ["forgetting", "planted"]
    with pytest.raises(ValueError, match="no experiment is named 'forgeting'"):
        config.only(study, ["forgeting"])


@pytest.fixture
def from_flags(tmp_path):
    """Calls load_from_flags on the folder `tmp_path/work` with these flags."""

    def call(*given):
        with flagsaver.flagsaver():
            flags.FLAGS(["test", f"--workdir={tmp_path / 'work'}", *map(str, given)])
            return config.load_from_flags()

    return call


def test_the_folder_remembers_its_study(from_flags, gin_file, tmp_path):
    study = from_flags(f"--gin_file={gin_file}", "--gin_bindings=Geometry.steps = 31")
    gin_file.unlink()
    assert from_flags() == study and study.geometry.steps == 31
    changed = from_flags("--gin_bindings=Geometry.steps = 32")
    assert from_flags() == changed != study


def test_a_folder_without_a_study_is_named(from_flags):
    with pytest.raises(ValueError, match="work holds no study yet: name its config with --gin"):
        from_flags()


def test_a_bad_config_is_not_remembered(from_flags, gin_file, tmp_path):
    study = from_flags(f"--gin_file={gin_file}")
    with pytest.raises(ValueError, match="lenght"):
        from_flags("--gin_bindings=Geometry.lenght = 3")
    assert from_flags() == study


@pytest.mark.parametrize(
    ("binding", "message", "folders"),
    [
        ("Geometry.steps = 31", r"with Geometry\.steps 30, now it would be 31:", ["plan-s3"]),
        ("Study.validation_sequences = 5", "4, now it would be 5", ["plan", "control"]),
        ("DecoderConfig.hidden = 48", r"hidden 32, now it would be 48:", ["run/checkpoints/10"]),
        (
            "AdamW.beta2 = 0.5",
            r"with Training\.optimizer\.beta2 0\.95, now it would be 0\.5:",
            ["control-s2/checkpoints/10"],
        ),
    ],
)
def test_what_exists_locks_what_it_was_made_with(
    from_flags, gin_file, tmp_path, folders, binding, message
):
    study = from_flags(f"--gin_file={gin_file}")
    for folder in folders:
        (tmp_path / "work" / folder).mkdir(parents=True)
    with pytest.raises(ValueError, match=message) as error:
        from_flags(f"--gin_bindings={binding}")
    assert "\n" not in str(error.value)
    assert from_flags() == study
    more_often = from_flags("--gin_bindings=Training.checkpoint_every = 3")
    assert more_often.training.checkpoint_every == 3


@pytest.mark.parametrize("folder", ["control", "control/checkpoints", "plan/tables"])
def test_an_empty_run_locks_no_model(from_flags, gin_file, tmp_path, folder):
    """A refused training run, say for a vocabulary that is too small, can be repeated."""
    from_flags(f"--gin_file={gin_file}")
    (tmp_path / "work" / folder).mkdir(parents=True)
    assert from_flags("--gin_bindings=DecoderConfig.vocab_size = 640").model.vocab_size == 640


@pytest.mark.parametrize("name", ["manifest.json", "unfinished/state.json"])
def test_a_corpus_that_has_begun_is_not_made_another(from_flags, gin_file, tmp_path, name):
    source = "--gin_bindings=TextFiles.paths = ['/other']"
    study = from_flags(f"--gin_file={gin_file}", source)
    path = tmp_path / "work/corpus" / name
    path.parent.mkdir(parents=True)
    path.touch()
    with pytest.raises(ValueError, match=r"/other.*/data/text.*with --workdir alone") as error:
        from_flags(f"--gin_file={gin_file}")
    assert "\n" not in str(error.value)
    assert from_flags() == study == from_flags(f"--gin_file={gin_file}", source)
    assert from_flags("--gin_bindings=Geometry.steps = 31").geometry.steps == 31


def test_a_load_leaves_no_binding_behind(gin_file):
    load(gin_file, "Geometry.steps = 44")
    with pytest.raises(ValueError, match="bad config"):
        load(gin_file, "Geometry.steps = -1")
    with pytest.raises(TypeError, match="steps"):
        Geometry(length=8, batch=2)


def test_a_study_can_be_made_without_gin(tiny_study):
    assert isinstance(tiny_study.experiments, tuple)
    with pytest.raises(ValueError, match=r"Study\.name must be text, not 3"):
        dataclasses.replace(tiny_study, name=3)


def test_a_single_binding_that_a_saved_scope_overrides_is_named(tmp_path):
    """Saved configs bind what a scoped experiment is made of in its scope."""
    more, saved = tmp_path / "more.gin", tmp_path / "config.gin"
    more.write_text(
        "Study.experiments = [@Contamination(), @late/Canaries(), @Forgetting(), @Acquisition(), "
        "@Reasoning(), @Verbatim(), @GaussianWatermark(), @Poisoning()]\n"
        "Canaries.placement = @Within()\nWithin.start = 0.5\nWithin.stop = 1.0\n"
    )
    saved.write_text(config.load([QUICKSTART, more])[1])
    with pytest.raises(
        ValueError, match=r"late/.*Within\.start overrides Within\.start: bind that"
    ):
        load(saved, "Within.start = 0.4")
    study = load(saved, "late/Within.start = 0.4")
    assert study.experiments[1].placement.start == 0.4


@pytest.mark.parametrize("module", ["evaluate", "train"])
def test_help_names_the_flags_of_every_command(module):
    asked = [sys.executable, "-m", f"ttoaa.{module}", "--help"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=120).stdout
    for name in ("workdir", "seed", "gin_file", "gin_bindings"):
        assert f"  --{name}=…\n" in told, told
