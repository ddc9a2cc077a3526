"""Run the cells of a notebook in this process, from top to bottom, as a kernel does.

The notebooks use one piece of IPython's language, lines that start with "!"; a test decides what
these do. Everything else is Python, which `ast` proves. A kernel costs seconds to start.
"""

import ast
import json
import pathlib
import re

import matplotlib
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.transforms import Bbox
from pandas.io.formats.style import Styler

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "notebooks"


def read(name):
    """The notebook of this name, as JSON."""
    return json.loads((FOLDER / f"{name}.ipynb").read_text())


def run(name, shell, **parameters):
    """Yield (what the last line of a cell showed, its figures) for every code cell.

    `shell` gets each command line. `parameters` replace assignments of cells, as a user does.
    """
    scope, left = {"__name__": "__main__", "shell": shell}, dict(parameters)
    with matplotlib.rc_context(), pd.option_context("display.max_colwidth", 50):
        plt.switch_backend("agg")
        for number, cell in enumerate(read(name)["cells"]):
            if cell["cell_type"] == "code":
                source = _replaced("".join(cell["source"]), left)
                try:
                    yield _run_cell(source, scope, f"{name}.ipynb, cell {number}")
                finally:
                    plt.close("all")
    assert not left, f"{name} has no parameters {list(left)}"


def _replaced(source, parameters):
    for name in list(parameters):
        pattern = re.compile(rf"^{name} = .*$", re.MULTILINE)
        if pattern.search(source):
            value = f"{name} = {parameters.pop(name)!r}"
            source = pattern.sub(lambda _, value=value: value, source, count=1)
    return source


def _run_cell(source, scope, where):
    # IPython too replaces {…} in such a line by what the Python expression gives.
    source = re.sub(r"(?m)^( *)!(.+)$", lambda m: f"{m[1]}shell(f{m[2]!r})", source)
    tree, shown = ast.parse(source, where), None
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, where, "exec"), scope)
    if last:
        shown = eval(compile(ast.Expression(last.value), where, "eval"), scope)
        if isinstance(shown, pd.DataFrame):
            assert len(shown), f"{where}: an empty table"
            shown._repr_html_()
        elif isinstance(shown, Styler):
            assert len(shown.index) and shown.to_html(), f"{where}: an empty table"
    return shown, [plt.figure(number) for number in plt.get_fignums()]


def check_figure(figure, most=7):
    """What a reader needs: data and labels in every panel, and few entries in a legend."""
    figure.set_layout_engine("none")  # which draws everything several times
    figure.draw_without_rendering()
    assert figure.axes
    for axes in figure.axes:
        assert axes.has_data()
        assert axes.get_xlabel() and (axes.get_ylabel() or axes.get_yticklabels())
        if legend := axes.get_legend():
            assert 0 < len(legend.get_texts()) <= most
            covered = Bbox.intersection(legend.get_window_extent(), axes.get_window_extent())
            assert covered is None or covered.width < 1, "a legend may cover data"
