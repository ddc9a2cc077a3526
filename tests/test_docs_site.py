"""The documentation hangs together: links, navigation, and the pages made from docstrings."""

import functools
import pathlib
import re
import runpy
import types

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(ROOT / "configs/README.md", *sorted((ROOT / "docs").rglob("*.md"))),
]
LINK = re.compile(r"\]\(([^)\s]*?)(?:#([^)\s]*))?\)")
CODE = re.compile(r"^(`{3,}).*?^\1|`[^`\n]+`", re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def site():
    """What docs/conf.py defines."""
    return types.SimpleNamespace(**runpy.run_path(str(ROOT / "docs/conf.py")))


@functools.cache
def anchors(page):
    """The anchors that GitHub and MyST give to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text), re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for path, anchor in LINK.findall(text):
        if re.match(r"\w+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), path
        if anchor:
            assert anchor in anchors(target), f"{path}#{anchor}"


def test_every_page_is_in_the_navigation(site):
    listed = {page for pages in site.navigation().values() for page in pages}
    folders = ("docs/extending/", "docs/results/", "docs/api/")  # below an index page
    pages = {str(page.relative_to(ROOT).with_suffix("")) for page in PAGES}
    assert {page for page in pages - listed if not page.startswith(folders)} == {
        *("README", "docs/README"),
    }


def test_the_api_pages_name_files_that_exist(site):
    assert len(site.API_PAGES) > 50
    for name in site.API_PAGES:
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name


SOURCE = '''"""A module.

Its <name> and `<code>`.
"""
LIMIT: int = 3
"""How many."""
_HIDDEN = 1
"""Not shown."""


class Base:
    pass


class Mine(Base):
    """A class.

    | a | b |
    |---|---|
    | 1 | 2 |
    """

    size: PositiveInt = 4
    """Its size."""
    kinds: tuple[str, ...] = dataclasses.field(default_factory=tuple)
    signs: ClassVar[dict[str, int]] = {}

    @property
    def area(self) -> int:
        """Return the area."""

    def grow(self, by: int = 1) -> None:
        """Grow.

        Args:
            by: how much.
        """

    def _private(self) -> None:
        """Not shown."""

    def undocumented(self) -> None: ...
'''


def test_a_module_is_described_as_it_is_written(site, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SOURCE)
    text = site.describe_module("mine", path)
    for part in (
        "Its \\<name> and `<code>`.",
        "{py:data} LIMIT\n:type: int\n:value: 3\n\nHow many.",
        "{py:class} Mine(Base)\n",
        "\n| 1 | 2 |\n",
        "{py:attribute} size\n:type: PositiveInt\n:value: 4\n\nIts size.",
        "{py:attribute} kinds\n:type: tuple[str, ...]\n",
        "{py:property} area\n:type: int\n",
        "{py:method} grow(by: int=1) -> None\n",
        "- `by`: how much.",
    ):
        assert part in text, part
    for hidden in ("_HIDDEN", "Not shown", "signs", "undocumented", "default_factory"):
        assert hidden not in text
