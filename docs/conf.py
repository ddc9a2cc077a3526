"""The documentation site: `python -m sphinx -c docs . build/site`, from the repository's root.

Every page is plain Markdown that reads the same in a repository browser. Three conventions take the
place of Sphinx directives. The lists of docs/README.md are the navigation. An index page is the
parent of the pages of its folder that it links to. An entry of docs/api/ that begins with a module
stands for the documentation of that module.
"""

import pathlib
import posixpath
import re
import runpy
from collections.abc import Mapping

from pygments.lexers import PythonLexer
from sphinx.application import Sphinx

ROOT = pathlib.Path(__file__).resolve().parents[1]
describe_module = runpy.run_path(str(ROOT / "docs/api_reference.py"))["describe_module"]

project = "ttoaa"
author = copyright = "The ttoaa contributors"
release = re.search(r'__version__ = "(.+?)"', (ROOT / "ttoaa/__init__.py").read_text())[1]
root_doc = "README"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "configs/README.md"),
    *("docs/**", "notebooks/**"),
]
exclude_patterns = [".*", "build", "dist", "runs", "ttoaa", "tests", "launch", "constraints"]

extensions = ["myst_nb"]
nb_execution_mode = "off"  # the test suite runs the notebooks
myst_heading_anchors = 4
toc_object_entries = False  # a copy of all fields and methods in the navigation of every page
suppress_warnings = ["ref.python"]  # the type of a field may be the name of two classes

html_theme = "furo"
html_title = f"ttoaa {release}"
html_show_sphinx = False
html_copy_source = False

INDEXES = {"docs/extending/README", "docs/results", "docs/api/README"}
LINK = re.compile(r"\]\(([^)#:\s]+)(#[^)\s]*)?\)")
FILE_NAME = re.compile(r"\[[\w./]+\.md\]\((?=[^):]+\.md)")  # on the site the title, which MyST adds
ENTRY = re.compile(r"^- \[([^\]]+)\]\(([^)#:]+)\.(?:md|ipynb)\)", re.MULTILINE)
PAGE = re.compile(r"\]\(([\w/]+)\.md\)")
MODULE = re.compile(r"^- \[`(ttoaa[\w.]*)`\]\([^)]+\): .*(?:\n  .+)*", re.MULTILINE)
API_PAGES = {
    name: f"docs/api/{path.name}"
    for path in sorted((ROOT / "docs/api").glob("*.md"))
    for name in MODULE.findall(path.read_text(encoding="utf-8"))
}
"""Module: the page with its documentation."""


def read_source(app: Sphinx, page: str, source: list[str]) -> None:
    """Add to a page what Markdown cannot say: navigation, and the documentation of modules."""
    del app
    text = FILE_NAME.sub("[](", LINK.sub(lambda link: _site_link(page, link), source[0]))
    if page.startswith("docs/api/"):
        text = MODULE.sub(_module, text)
    if page == root_doc:
        trees = {"": {"docs/README": "Documentation"}, **navigation()}
        text += "".join(_tree(pages, caption) for caption, pages in trees.items())
    if page in INDEXES:
        found = (_absolute(page, link) for link in PAGE.findall(source[0]))
        listed = {each for pages in navigation().values() for each in pages}
        inside = [each for each in found if posixpath.dirname(each) != "docs"]
        text += _tree(dict.fromkeys((each for each in inside if each not in listed), ""))
    source[0] = text


def navigation() -> dict[str, dict[str, str]]:
    """Return {heading: {page: title}} of the lists of docs/README.md."""
    parts = (ROOT / "docs/README.md").read_text(encoding="utf-8").split("\n## ")[1:]
    found = {part.partition("\n")[0]: ENTRY.findall(part) for part in parts}
    return {
        caption: {_absolute("docs/README", link): title for title, link in entries}
        for caption, entries in found.items()
    }


def _tree(pages: Mapping[str, str], caption: str = "") -> str:
    """Return a table of contents; a page without a title is listed by its heading."""
    lines = ["```{toctree}", ":hidden:", f":caption: {caption}" if caption else ":maxdepth: 1", ""]
    entries = [f"{title} </{page}>" if title else f"/{page}" for page, title in pages.items()]
    return "\n".join(["", "", *lines, *entries, "```"])


def _module(entry: re.Match[str]) -> str:
    path = ROOT / f"{entry[1].replace('.', '/')}.py"
    return f"## `{entry[1]}`\n\n{describe_module(entry[1], path)}\n"


def _site_link(page: str, link: re.Match[str]) -> str:
    """Lead a link to a folder to its page, and one to a documented module to its documentation."""
    path, anchor = link.groups()
    target = _absolute(page, path)
    name = target.removesuffix(".py").replace("/", ".")
    inside = [each for each in API_PAGES if f"{each}.".startswith(f"{name}.")]
    if inside:
        path = posixpath.relpath(API_PAGES[inside[0]], posixpath.dirname(page))
        return f"]({path}#{inside[0].replace('.', '')})"
    if (ROOT / target / "README.md").exists():
        path = f"{path.rstrip('/')}/README.md"
    elif (ROOT / f"{target}.md").exists():
        path = f"{path.rstrip('/')}.md"
    return f"]({path}{anchor or ''})"


def _absolute(page: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def write_front_page(app: Sphinx, error: Exception | None) -> None:
    """Let the site's address open README.html."""
    if error is None and app.builder.format == "html":
        refresh = f'<meta http-equiv="refresh" content="0; url={root_doc}.html">'
        (pathlib.Path(app.outdir) / "index.html").write_text(f"<!doctype html>{refresh}\n")


def setup(app: Sphinx) -> None:
    app.add_lexer("gin", PythonLexer)
    app.connect("source-read", read_source)
    app.connect("build-finished", write_front_page)
