"""`ttoaa config diff`: resolved settings are compared, and the exit code is that of `diff`."""

import pytest
import studies

from ttoaa import config, config_diff


@pytest.fixture
def gin_file(tmp_path):
    return studies.write_gin(tmp_path / "gin", ["/data/text"])


@pytest.fixture
def diff(capsys):
    """Call the command: (exit code, lines printed after the two names, errors)."""

    def call(one, other):
        with pytest.raises(SystemExit) as left:
            config_diff.main(["diff", str(one), str(other)])
            raise SystemExit(0)
        out, err = capsys.readouterr()
        assert not out or out.startswith(f"--- {one}\n+++ {other}\n")
        return left.value.code, out.splitlines()[2:], err

    return call


def fork(path, text):
    made = path.with_name("fork.gin")
    made.write_text(f"include '{path.name}'\n{text}\n")
    return made


def test_what_is_written_otherwise_and_means_the_same_does_not_differ(diff, gin_file):
    text = (
        "STEPS = 30\nGeometry.steps = %STEPS\nAdamW.beta1 = 0.9\n"
        "Study.experiments = [@Forgetting(), @late/Planted(), @planted/Planted()]"
    )
    assert diff(gin_file, fork(gin_file, text)) == (0, [], "")


def test_each_setting_that_differs_is_one_line(diff, gin_file):
    text = (
        "Study.experiments = [@planted/Planted(), @late/Planted()]\nGeometry.steps = 40\n"
        "late/Planted.items = 3\nplanted/Planted.probe_steps = (0, 7, 20, 40)\n"
        "AdamW.schedule = @Cosine()\nCosine.peak = 1.0\nCosine.warmup = 4"
    )
    code, lines, _ = diff(gin_file, fork(gin_file, text))
    assert code == 1 and lines == [
        "geometry.steps: 30 → 40",
        "training.optimizer.schedule: ConstantLinear → Cosine",
        "experiments.planted.probe_steps.3: 30 → 40",
        "experiments.late.items: 4 → 3",
        "experiments.forgetting: Forgetting(…) → absent",
    ]


def test_a_side_may_be_several_files_or_a_studys_folder(diff, gin_file, tmp_path):
    more = tmp_path / "more.gin"
    more.write_text("Geometry.batch = 8\n")
    (tmp_path / "config.gin").write_text(config.load([gin_file])[1])
    assert diff(tmp_path, gin_file)[0] == 0
    assert diff(tmp_path, f"{gin_file},{more}")[1] == ["geometry.batch: 4 → 8"]


def test_what_cannot_be_read_is_named_and_ends_with_2(diff, gin_file, tmp_path):
    code, lines, error = diff(gin_file, fork(gin_file, "Geometry.steps = 0"))
    assert (code, lines) == (2, []) and error.count("\n") == 1
    assert "fork.gin: bad config: Geometry.steps must be" in error
    assert diff(tmp_path, gin_file)[2].endswith(
        f"{tmp_path} holds no study: name its config instead\n"
    )
    twice = fork(gin_file, "late/Planted.name = 'planted'")
    assert "fork.gin: two experiments have the same name" in diff(gin_file, twice)[2]
    (tmp_path / "config.gin").write_text("Geometry.steps = 3\n")
    assert "is damaged or was edited" in diff(tmp_path, gin_file)[2]
