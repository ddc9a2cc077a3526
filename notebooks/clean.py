"""Clear the outputs of all notebooks, and rewrite their setup cells and badges.

  python notebooks/clean.py

Run it before a commit. The first code cell is the same in all notebooks and stands here. Once
setup.py has the address of the repository on GitHub (`url=`), every notebook opens with a badge and
installs from there.
"""

import json
import pathlib
import re
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
_COLAB = "https://colab.research.google.com"
SETUP = """\
import importlib.util
import sys

WORKDIR = "runs/quickstart"  # the study: a folder, or gs://bucket/study
SOURCE = "{source}"  # what pip installs without ttoaa: "git+" and the address of this repository

if importlib.util.find_spec("ttoaa") is None:
    if not SOURCE:
        raise ValueError("ttoaa is not installed: set SOURCE")
    !{{sys.executable}} -m pip install -q "{{SOURCE}}"
if WORKDIR.startswith("gs://") and "google.colab" in sys.modules:
    from google.colab import auth

    auth.authenticate_user()
"""


def repository() -> str:
    """Return the repository's address in setup.py; empty without one."""
    found = re.search(
        r'^ +url="(https://github\.com/[^"]+)"', (ROOT / "setup.py").read_text(), re.M
    )
    return found[1] if found else ""


def clean(name: str, notebook: dict[str, Any]) -> dict[str, Any]:
    """Return the notebook as it is committed."""
    address, cells = repository(), []
    for number, cell in enumerate(notebook["cells"]):
        text = "".join(cell["source"])
        if number == 0:
            text = re.sub(r"^\[!\[Open in Colab\].*\n\n", "", text)
            image = f"{_COLAB}/assets/colab-badge.svg"
            place = address.replace("https://github.com", f"{_COLAB}/github")
            badge = f"[![Open in Colab]({image})]({place}/blob/main/notebooks/{name})"
            text = f"{badge}\n\n{text}" if address else text
        if number == 1:
            text = SETUP.format(source=f"git+{address}" if address else "")
        own = {"cell_type": cell["cell_type"], "id": f"cell-{number}", "metadata": {}}
        if cell["cell_type"] == "code":
            own |= {"execution_count": None, "outputs": []}
        cells.append({**own, "source": text.rstrip("\n").splitlines(keepends=True)})
    metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python", "pygments_lexer": "ipython3"},
    }
    return {"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}


def to_text(notebook: dict[str, Any]) -> str:
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in sorted(pathlib.Path(__file__).parent.glob("*.ipynb")):
        path.write_text(to_text(clean(path.name, json.loads(path.read_text()))))
