"""A tiny study in a folder, and the real commands run on it."""

import importlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import grain  # noqa: F401 (defines flags, which `flagsaver` would take away again)
import jax
import numpy as np
from absl import flags
from absl.testing import flagsaver

from ttoaa import command_line, config, study
from ttoaa.gin_files import sources_of, with_header
from ttoaa.model.decoder import abstract_params
from ttoaa.training.checkpoint_io import read_checkpoint
from ttoaa.training.metrics import FILES
from ttoaa.training.topology import pin_cores
from ttoaa.workdir import Workdir

HERE = pathlib.Path(__file__).parent
PYTHONPATH = f"{HERE}{os.pathsep}{HERE.parent}"  # this checkout, whatever is installed
STEPS, EVERY = 30, 10
GIN = f"""
import fakes
import slow
import ttoaa.experiments.forgetting

Study.name = 'tiny'
Study.prepare = @Prepare()
Study.geometry = @Geometry()
Study.model = @DecoderConfig()
Study.training = @Training()
Study.experiments = [@planted/Planted(), @late/Planted(), @Forgetting()]
Study.validation_sequences = 4

Prepare.source = @TextFiles()
Prepare.tokenizer = @TrainBPE()
Prepare.reserve_fraction = 0.3
TextFiles.separator = '\\n%%\\n'
TrainBPE.vocab_size = 320
TrainBPE.reserved = 32

Geometry.length = 32
Geometry.batch = 4
Geometry.steps = {STEPS}

DecoderConfig.vocab_size = 320
DecoderConfig.layers = 1
DecoderConfig.width = 16
DecoderConfig.heads = 2
DecoderConfig.hidden = 32

Training.optimizer = @AdamW()
Training.checkpoint_every = {EVERY}
Training.validate_every = {EVERY}
AdamW.schedule = @ConstantLinear()
ConstantLinear.peak = 1e-2
ConstantLinear.warmup = 4

planted/Planted.name = 'planted'
planted/Planted.probe_steps = (0, 7, 20, {STEPS})
late/Planted.name = 'late'
late/Planted.placement = @Within()
Within.start = 0.5
Within.stop = 1.0
Forgetting.name = 'forgetting'
Forgetting.primary = 'cross_entropy/lag-1'
Forgetting.expected_sign = -1
Forgetting.at = (0.4,)
"""

QUICK = "--xla_backend_optimization_level=0"
"""Flags of XLA that halve its time; the tests set them for all of their processes (`conftest`)."""
AS_USED = {"xla_backend_optimization_level": "3"}
"""XLA's own options, for steps of different programs whose bits are compared."""
if jax.__version_info__ < (0, 11):  # later versions have no such flag
    QUICK += " --xla_cpu_use_fusion_emitters=false"
    AS_USED["xla_cpu_use_fusion_emitters"] = "True"


def xla_flags(devices):
    """$XLA_FLAGS of a process with this number of fake devices."""
    return f"{QUICK} --xla_force_host_platform_device_count={devices}"


pin_cores()  # before the backend starts, as the commands do
TIMES = ("tokens_per_second", "mfu", "goodput")


def write_gin(folder, paths):
    """The study's config, on the text of these paths."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "study.gin"
    path.write_text(f"{GIN}\nTextFiles.paths = {list(paths)!r}\n")
    return path


def start(module, workdir, *more, slow=0.0, env=None, **options):
    """`python -m ttoaa.<module>`, not waited for; each batch takes `slow` seconds."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
    # One device, as there is in the tests' own process, where some of these commands run too.
    own = {"PYTHONPATH": PYTHONPATH, "TTOAA_TEST_SLOW": str(slow), "XLA_FLAGS": xla_flags(1)}
    env = {**os.environ, **own, **(env or {})}
    command = [sys.executable, "-m", f"ttoaa.{module}", f"--workdir={workdir}", *more]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | options
    return subprocess.Popen(command, env=env, cwd=pathlib.Path(workdir).anchor, **options)


def run(module, workdir, *more, **options):
    """(exit code, stdout, stderr) of the command."""
    process = start(module, workdir, *more, **options)
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err


def main(module, workdir, *more):
    """Runs a command's main in this process; its exit status, or what sys.exit was given."""
    handler = signal.getsignal(signal.SIGTERM)
    with flagsaver.flagsaver():
        flags.FLAGS([module.__name__, f"--workdir={workdir}", *more])
        try:
            command_line.call(module.__name__.removeprefix("ttoaa."), module.main, [])
        except SystemExit as left:
            return left.code
        finally:
            signal.signal(signal.SIGTERM, handler)
    return 0


class InThisProcess:
    """Runs stages of a study as calls of their mains."""

    def run(self, command):
        module, workdir, *options = command[2:]
        module = importlib.import_module(module)
        assert main(module, workdir.partition("=")[2], *options) in (0, None)


class FirstAsProcess(InThisProcess):
    """Runs the first stage of each command as users have it; the others save their start-up."""

    def __init__(self):
        self._started, self._runner = set(), _RUNNER()

    def run(self, command):
        first = command[2] not in self._started
        self._started.add(command[2])
        (self._runner.run if first else super().run)(command)


_RUNNER = study._Runner


def make(folder, paths):
    """Make a study of seeds 0 and 1 by one command: work/, printed, and this folder's name."""
    workdir, gin = folder / "work", write_gin(folder, paths)
    code = "import sys, studies; studies.study._Runner = studies.FirstAsProcess; "
    code += "sys.exit(studies.main(studies.study, *sys.argv[1:]))"
    command = [sys.executable, "-u", "-c", code, workdir, f"--gin_file={gin}", "--seeds=0,1"]
    own = {"PYTHONPATH": PYTHONPATH, "XLA_FLAGS": xla_flags(1)}
    done = subprocess.run(command, env={**os.environ, **own}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (folder / "printed").write_text(done.stdout)
    (folder / "folder").write_text(str(folder))


def copy(workdir, target, *names):
    """A new study folder with these parts of a finished one."""
    for name in ("config.gin", "corpus", *names):
        copied = shutil.copytree if (workdir / name).is_dir() else shutil.copy
        target.mkdir(parents=True, exist_ok=True)
        copied(workdir / name, target / name)
    return target


def edit_config(workdir, *replacements, add=""):
    """Change the study's resolved config as if ttoaa had resolved it so."""
    path = workdir / "config.gin"
    sources = sources_of(path)
    lines = path.read_text().splitlines(keepends=True)[1 + len(sources) :]
    text = "".join(lines) + f"\n{add}\n" * bool(add)
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path.write_text(with_header(text, sources))


def params(workdir, kind, step=STEPS, seed=0):
    model = config.load([workdir / "config.gin"])[0].model
    folder = Workdir(workdir, seed).run(kind) / "checkpoints"
    return jax.tree.map(
        np.asarray, read_checkpoint(folder, step, params=abstract_params(model))["params"]
    )


def same_bits(one, other):
    return all(jax.tree.leaves(jax.tree.map(lambda a, b: a.tobytes() == b.tobytes(), one, other)))


def records(run):
    """All JSON lines of a run, without what depends on the time."""
    found = {}
    for name in FILES:
        lines = [json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()]
        found[name] = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return found


def contents(folder):
    """Every file and its bytes, but for results of scans, which a corpus caches."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path: path.read_bytes() for path in files if path.parent.name != "scans"}
