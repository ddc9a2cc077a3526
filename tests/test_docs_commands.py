"""Code in the documentation that no other test runs: shell lines, configs and Python.

bash runs every shell block, and records the programs that it calls instead of running them. The
commands of ttoaa are then parsed by ttoaa, and the lines of the launchers by the launchers.
"""

import json
import pathlib
import re
import subprocess
import sys

import pandas as pd
import pytest
from launch_tools import Tools

from ttoaa import config
from ttoaa.__main__ import COMMANDS

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "configs/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
RECORD = r"""
command_not_found_handle() { printf '%s\0' "$@" $'\n' >>"$CALLS"; }
set -eu
"""
"""Called instead of every program, since PATH has none."""
PARSE = """
import json, os, runpy, sys
from ttoaa import command_line
from ttoaa.__main__ import COMMANDS
from ttoaa.interop.lm_eval.__main__ import build_command

command_line.call = lambda name, main, argv: sys.exit(0)  # parse, and run nothing
for words in json.load(sys.stdin):
    if not os.fork():
        sys.argv = words
        sys.stderr = sys.stdout
        print(words)
        try:
            if words[0] == "harness":
                sys.exit(build_command(words[1:]) is None)
            runpy.run_module(COMMANDS[words[0]], run_name="__main__", alter_sys=True)
        finally:
            sys.stdout.flush()
    if os.waitstatus_to_exitcode(os.wait()[1]) not in (0, 1):  # 1: a folder that does not exist
        sys.exit(1)
"""


def blocks(page, language):
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The words of every program that the shell blocks of all pages call."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / ".venv/bin").mkdir(parents=True)
    (folder / ".venv/bin/activate").touch()
    for page in PAGES:
        script = "\n".join([RECORD, *blocks(page, "sh"), "wait"])
        done = subprocess.run(
            ["/bin/bash", "-c", script],
            cwd=folder,
            env={"PATH": str(folder), "CALLS": str(folder / "calls")},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{page}: {done.stderr}"
    return [call.split("\0")[:-1] for call in (folder / "calls").read_text().split("\n\0") if call]


def test_every_command_takes_its_flags(calls, tmp_path):
    modules = {module: name for name, module in COMMANDS.items()}
    given = [call[1:] for call in calls if call[0] == "ttoaa"]
    for call in calls:
        if call[:2] == ["python", "-m"] and call[2] in modules:
            given.append([modules[call[2]], *call[3:]])
    assert {words[0] for words in given} <= {*COMMANDS}
    alike = {tuple(word.partition("=")[0] for word in words): words for words in given}
    assert len(alike) > 30
    done = subprocess.run(
        [sys.executable, "-c", PARSE],
        input=json.dumps([*alike.values()]),
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "PATH": "/bin"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_that_a_line_names_exists(calls):
    paths = [words[2] for words in calls if words[:2] == ["python", "-m"]]
    files = [f"{path.replace('.', '/')}.py" for path in paths if path.startswith("tests.")]
    files += [words[1] for words in calls if words[0] == "bash"]
    for words in calls:
        files += [word.partition("=")[2] for word in words if word.startswith("--gin_file=configs")]
        if words[0] == "pip":
            files += [word for word in words if word.startswith("constraints/")]
    assert len(files) > 50
    assert [file for file in files if not (ROOT / file).exists()] == []


def test_the_extras_that_are_installed_exist(calls):
    extras = re.findall(r"ttoaa\[(\w+)\]", " ".join(word for call in calls for word in call))
    exist = re.findall(r'^    "(\w+)": ', (ROOT / "setup.py").read_text(), re.MULTILINE)
    assert {"tpu", "beam"} <= set(extras) <= set(exist)


def test_the_launchers_take_their_lines(calls, tmp_path):
    jobs = ("compute_engine", "queued_tpu", "gke", "slurm", "processes")
    lines = [
        [word for word in words[1:] if word != "--dry_run"]
        for words in calls
        if words[0] == "bash" and pathlib.Path(words[1]).stem in jobs
    ]
    assert len(lines) > 10
    tools = Tools(tmp_path / "tools")
    for script, action, name, *rest in lines:
        done = tools.launch(pathlib.Path(script).name, action, name, "--dry_run", *rest)
        assert done.returncode == 0, (script, action, done.stderr)


_TESTED = ("gin", "data", "benchmarks", "experiments", "pooled")
CONFIGS = {
    page.stem: blocks(page, "gin")
    for page in PAGES
    if page.parent.name == "docs" and page.stem not in _TESTED
}
"""{page: its blocks}; the other pages have separate tests."""


@pytest.mark.parametrize("page", [page for page, found in CONFIGS.items() if found])
def test_the_configs_of_a_page_load(page, tmp_path):
    """A block without an include adds to the paper's run, and to the blocks before it."""
    before = "include 'paper.gin'\n"
    for block in CONFIGS[page]:
        before = block if "include" in block else before + block
        (tmp_path / "mine.gin").write_text(before)
        assert config.load([tmp_path / "mine.gin"])[0].geometry.length


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_imports_what_exists(page):
    """By the text of the modules, since importing some of them takes seconds."""
    for block in blocks(page, "python"):
        compile(block, str(page), "exec")
        for module, names in re.findall(r"^from (ttoaa[\w.]*) import ([\w, ]+)$", block, re.M):
            path = ROOT / module.replace(".", "/")
            file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
            for name in names.split(", "):
                defined = rf"^(class|def) {name}\b|^{name}\b|import .*\b{name}\b|^    {name},$"
                found = re.search(defined, file.read_text(encoding="utf-8"), re.MULTILINE)
                assert found or (path / f"{name}.py").exists(), f"{module} has no {name}"


def test_the_first_run_reads_its_summary(tmp_path, monkeypatch, capsys):
    (block,) = blocks(ROOT / "docs/first_run.md", "python")
    columns = ("experiment", "outcome", "condition", "difference")
    row = dict.fromkeys([*columns, "difference_ci_low", "difference_ci_high"], "x")
    folder = tmp_path / "runs/quickstart"
    folder.mkdir(parents=True)
    pd.DataFrame([{**row, "primary": True}, {**row, "primary": False}]).to_json(
        folder / "summary.json", orient="records"
    )
    monkeypatch.chdir(tmp_path)
    exec(compile(block, "first_run.py", "exec"), {})
    assert capsys.readouterr().out.count("\n") == 2
