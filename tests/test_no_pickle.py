"""No file of ours holds pickles, since reading one runs whatever code it names."""

import ast
import pathlib

import ttoaa

ROOT = pathlib.Path(ttoaa.__file__).parent
PICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
# OLMo names tensors by pickles of strings: pickletools lists their opcodes and runs none.
LISTS_OPCODES = {ROOT / "interop/olmo/weights.py"}


def offences(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "weights_only"):
            if getattr(node.value, "value", None) is not (node.arg == "weights_only"):
                yield node.arg
        elif isinstance(node, ast.Attribute) and node.attr in ("read_pickle", "to_pickle"):
            yield node.attr
        forbidden = PICKLERS if path in LISTS_OPCODES else PICKLERS | {"pickletools"}
        yield from (name for name in names if name.split(".")[0] in forbidden)


def test_no_module_reads_or_writes_pickles():
    """Beam and multiprocessing pickle what they send to workers themselves, in no file of ours."""
    paths = sorted(ROOT.rglob("*.py"))
    assert len(paths) > 100
    assert {path: list(offences(path)) for path in paths if list(offences(path))} == {}


def test_an_offence_is_found(tmp_path):
    (tmp_path / "a.py").write_text(
        "import os, cloudpickle\nfrom pickle import loads\nimport pickletools\n"
        "np.load(x, allow_pickle=True)\ntorch.load(x, weights_only=False)\npd.read_pickle(x)\n"
    )
    assert len(set(offences(tmp_path / "a.py"))) == 6
