"""What every command shares: `ttoaa NAME`, its help, and errors of one line."""

import logging
import os
import pathlib
import re
import signal
import subprocess
import sys
import textwrap

import pytest

import ttoaa
from ttoaa.__main__ import COMMANDS, overview
from ttoaa.command_line import call, one_line
from ttoaa.data.geometry import Geometry

ROOT = pathlib.Path(__file__).resolve().parents[1]
GREET = '''
    """Greet somebody.

      ttoaa greet --to=Ada

    Greetings are printed.
    """
    from absl import flags
    from ttoaa import command_line
    import manners

    _TO = flags.DEFINE_string("to", None, "whom to greet", required=True)
    _TIMES = flags.DEFINE_integer("times", 1, "how often to greet", 1)
    _TONE = flags.DEFINE_enum("tone", None, ["warm", "cold"], "how it sounds")


    def main(argv):
        if _TO.value == "nobody":
            raise ValueError("--to=nobody is not a person: name one")
        print(*["hello", _TO.value] * _TIMES.value, *argv[1:])


    if __name__ == "__main__":
        command_line.run("greet", main, manners, **OPTIONS)
'''
MANNERS = '''
    """Flags that several commands share."""
    from absl import flags

    POLITE = flags.DEFINE_bool("polite", True, "whether to be polite")
'''


def run(*arguments, cwd=ROOT):
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)


@pytest.fixture
def greet(tmp_path):
    """Run the command `greet` with these arguments."""

    def call(*arguments, options="{}"):
        text = textwrap.dedent(GREET).replace("OPTIONS", options).lstrip()
        (tmp_path / "greet.py").write_text(text)
        (tmp_path / "manners.py").write_text(textwrap.dedent(MANNERS))
        return run("-m", "greet", *arguments, cwd=tmp_path)

    return call


def test_a_command_runs(greet):
    done = greet("--to=Ada", "--times=2")
    assert (done.returncode, done.stdout) == (0, "hello Ada hello Ada\n"), done.stderr


HELP = """\
usage: ttoaa greet [flags]

Greet somebody.

  ttoaa greet --to=Ada

Greetings are printed.

flags:
  --to=…
      whom to greet (required)
  --times=…
      how often to greet (a positive integer; default: 1)
  --tone=warm|cold
      how it sounds

common flags:
  --[no]polite
      whether to be polite (default: true)
"""


@pytest.mark.parametrize("flag", ["--help", "-h", "--helpshort"])
def test_help_shows_the_flags_of_the_command_first_and_none_of_libraries(greet, flag):
    done = greet(flag)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{HELP}\n--helpfull also lists the flags of libraries.\n"


def test_full_help_shows_those_of_libraries_last(greet):
    done = greet("--helpfull")
    assert done.returncode == 0 and done.stdout.startswith(HELP)
    assert "flags of libraries:\n" in done.stdout and "  --verbosity=…\n" in done.stdout
    assert done.stdout.count("--to=…") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--to is required"),
        (["--times=0", "--to=Ada"], "flag --times=0: 0 is not a positive integer"),
        (["--tims=2"], "Unknown command line flag 'tims'. Did you mean: times ?"),
        (["--to=Ada", "twice"], "unexpected argument 'twice': write the value of a flag after '='"),
    ],
)
def test_a_mistake_in_the_command_line_is_one_line(greet, arguments, message):
    done = greet(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"greet: {message} (flags: ttoaa greet --help)\n"


def test_an_expected_error_is_one_line(greet):
    done = greet("--to=nobody")
    assert (done.returncode, done.stderr) == (1, "greet: --to=nobody is not a person: name one\n")


@pytest.mark.parametrize("argument", ["--help", "--to=Ada"])
def test_a_reader_that_leaves_early_causes_no_error(greet, tmp_path, argument):
    greet("--help")  # writes the command
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-u", "-m", "greet", argument]
    done = subprocess.run(command, cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


def test_a_command_may_take_arguments_and_the_flags_of_others(greet):
    assert greet("--to=Ada", "twice", options="{'arguments': True}").stdout == "hello Ada twice\n"
    done = greet("--to=Ada", "--runner=Direct", options="{'unknown_flags': True}")
    assert done.stdout == "hello Ada --runner=Direct\n"


def test_the_console_script_runs_what_python_m_runs(greet, tmp_path):
    script = tmp_path / "bin" / "ttoaa"
    script.parent.mkdir()
    lines = "from ttoaa import __main__\n__main__.COMMANDS['greet'] = 'greet'\n__main__.main()\n"
    script.write_text(lines)
    for arguments in (["--to=Ada"], ["--help"], ["--to=nobody"]):
        one, other = greet(*arguments), run(script, "greet", *arguments, cwd=tmp_path)
        assert (one.returncode, one.stdout, one.stderr) == (
            *(other.returncode, other.stdout, other.stderr),
        )


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_without_a_command_there_is_a_table_of_them(arguments):
    done = run("-m", "ttoaa", *arguments)
    assert (done.returncode, done.stdout) == (0, f"{overview()}\n")
    assert re.findall(r"^  (\S+)  +\S.{20,}[^.]$", done.stdout, re.MULTILINE) == list(COMMANDS)


def test_the_table_imports_no_library():
    code = "import sys; from ttoaa.__main__ import overview; overview(); print(*sys.modules)"
    assert not {"absl", "jax", "gin", "numpy"} & set(run("-c", code).stdout.split())


SLOW = {
    *("jax", "flax", "scipy", "torch", "transformers"),
    *("pandas", "matplotlib", "tensorflow", "lm_eval"),
}
HELP_AND_MODULES = """
import runpy, sys
module, *sys.argv = sys.argv[1:]
try:
    runpy.run_module(module, run_name="__main__", alter_sys=True)
except SystemExit as left:
    print(left.code or "", file=sys.stderr)
    print(*sys.modules, file=sys.stderr)
"""


@pytest.mark.parametrize("name", COMMANDS)
def test_help_imports_nothing_slow(name):
    done = run("-c", HELP_AND_MODULES, COMMANDS[name], name, "--help")
    assert done.stdout.startswith("usage: ttoaa"), done
    assert "absl" in done.stderr.split() or "argparse" in done.stderr.split()
    assert not SLOW & set(done.stderr.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_refuses_a_stray_argument_before_it_does_anything(tmp_path, name):
    required = {"convert": ["--source=a", "--target=b"], "config": []}
    required["export"] = ["--workdir=a", "--target=b"]
    required |= {key: [] for key in ("status", "harness", "new-experiment")}
    given = required.get(name, [f"--workdir={tmp_path / 'none'}"])
    tasks = {"convert": ["import"], "export": ["tables"], "beam": ["scan"], "status": ["somewhere"]}
    tasks |= {"config": ["diff", "one", "other"], "new-experiment": ["mine"]}
    task = tasks.get(name, [])
    done = run("-m", COMMANDS[name], *task, "control", *given, cwd=tmp_path)
    assert done.returncode in (1, 2) and done.stdout == ""
    assert "control" in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["plan", "train", "evaluate", "report", "study", "harness"])
def test_a_missing_study_is_told_before_anything_slow_is_imported(tmp_path, name):
    done = run("-c", HELP_AND_MODULES, COMMANDS[name], name, "--workdir=nowhere", cwd=tmp_path)
    message, modules = done.stderr.splitlines()
    assert "nowhere" in message and message.startswith(name), done.stderr
    assert not SLOW & set(modules.split())


def test_flags_that_a_command_does_not_take_are_not_in_its_help(tmp_path):
    for name in ("study", "prepare", "report"):
        assert "--seed=" not in run("-m", f"ttoaa.{name}", "--help").stdout
        done = run("-m", f"ttoaa.{name}", "--seed=1", f"--workdir={tmp_path}")
        assert done.returncode == 2 and f"--seed is not a flag of {name}" in done.stderr


def test_its_version():
    assert run("-m", "ttoaa", "--version").stdout == f"ttoaa {ttoaa.__version__}\n"


def test_an_unknown_command_is_one_line():
    done = run("-m", "ttoaa", "nonsense", "--workdir=x")
    assert (done.returncode, done.stdout) == (2, "")
    names = ", ".join(COMMANDS)
    assert done.stderr == f"ttoaa: 'nonsense' is not a command; use one of {names}\n"


def test_every_module_that_runs_is_a_command():
    guard = 'if __name__ == "__main__":'
    files = [path for path in (ROOT / "ttoaa").rglob("*.py") if f"\n{guard}" in path.read_text()]
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files}
    assert {name.removesuffix(".__main__") for name in modules} == {"ttoaa", *COMMANDS.values()}


def test_an_error_of_a_class_that_gin_knows_is_one_line():
    with pytest.raises(ValueError) as error:
        Geometry(0, 1, 1)
    assert "\n" in str(error.value), "gin says where the class was called"
    message = one_line(error.value)
    assert message.startswith("Geometry.length must be an integer") and "\n" not in message


def test_libraries_do_not_report_their_caches_in_the_terminal():
    def main(argv):
        assert not logging.getLogger("matplotlib.font_manager").isEnabledFor(logging.INFO)

    logging.getLogger("matplotlib").setLevel(logging.INFO)
    call("report", main, [])
