"""API pages from source files, without importing them: docstrings are Markdown, as in the editor.

`sphinx.ext.autodoc` reads docstrings as reStructuredText, expands every annotated type to its
definition, and imports JAX. Here a field is shown as it is written: its type, its default and the
docstring below it.
"""

import ast
import pathlib
import re
from collections.abc import Iterator

Documented = ast.ClassDef | ast.FunctionDef


def describe_module(name: str, path: pathlib.Path) -> str:
    """Return the MyST text of one module: its docstring, then its public classes and functions."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = [f"```{{py:module}} {name}\n```", _docstring(tree), *_members(tree, fields=False)]
    return "\n\n".join(filter(None, parts))


def _members(node: ast.Module | ast.ClassDef, *, fields: bool) -> Iterator[str]:
    """Describe what is public and documented; with `fields` also fields without a docstring."""
    after = [*node.body[1:], None]
    for child, next_ in zip(node.body, after, strict=True):
        text = _string(next_)
        match child:
            case ast.ClassDef(name=name) if not name.startswith("_"):
                bases = ", ".join(map(ast.unparse, child.bases))
                inside = [_docstring(child), *_members(child, fields=True)]
                yield _directive("class", f"{name}({bases})" if bases else name, "", *inside)
            case ast.FunctionDef(name=name) if not name.startswith("_") and _docstring(child):
                yield _function(child, method=fields)
            case ast.AnnAssign(target=ast.Name(id=name)) if not name.startswith("_"):
                if text or (fields and not ast.unparse(child.annotation).startswith("ClassVar")):
                    options = f":type: {ast.unparse(child.annotation)}\n" + _value(child.value)
                    yield _directive("attribute" if fields else "data", name, options, text)
            case ast.Assign(targets=[ast.Name(id=name)]) if text and not name.startswith("_"):
                yield _directive("attribute" if fields else "data", name, "", text)


def _function(node: ast.FunctionDef, *, method: bool) -> str:
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    if {"property", "functools.cached_property"} & {*decorators}:
        return _directive("property", node.name, f":type: {returns[4:]}\n", _docstring(node))
    arguments = re.sub(r"^(self|cls)(, |$)", "", ast.unparse(node.args))
    kind = "method" if method else "function"
    return _directive(kind, f"{node.name}({arguments}){returns}", "", _docstring(node))


def _value(node: ast.expr | None) -> str:
    """Return the option that shows a default, unless it is long or made by a factory."""
    text = "" if node is None else ast.unparse(node)
    return f":value: {text}\n" if text and len(text) <= 60 and "factory" not in text else ""


def _directive(kind: str, signature: str, options: str, *content: str) -> str:
    body = "\n\n".join(filter(None, content))
    fence = "`" * max([3, *(len(inner) + 1 for inner in re.findall(r"^`{3,}", body, re.M))])
    return f"{fence}{{py:{kind}}} {signature}\n{options}\n{body}\n{fence}"


def _string(node: ast.stmt | None) -> str:
    """Return the text of a docstring that stands below a field."""
    match node:
        case ast.Expr(value=ast.Constant(value=str(text))):
            return _markdown(re.sub(r"\n +", "\n", text))
    return ""


def _docstring(node: ast.Module | Documented) -> str:
    return _markdown(ast.get_docstring(node) or "")


def _markdown(text: str) -> str:
    """Write the `Args:` of a docstring as a list, and keep `<name>` from being read as HTML."""
    lines, section = [], False
    for line in text.splitlines():
        heading = re.fullmatch(r"(Args|Raises|Returns):", line)
        if heading or (line and not line.startswith(" ")):
            section = bool(heading)
        if section and (argument := re.match(r" {4}(\w+): (.*)", line)):
            line = f"- `{argument[1]}`: {argument[2]}"
        elif section and heading:
            line = f"**{heading[1]}**\n"
        elif section:
            line = line.removeprefix("      ")
        lines.append(line)
    spans = re.split(r"(`[^`]*`)", "\n".join(lines))
    return "".join(span if span.startswith("`") else span.replace("<", r"\<") for span in spans)
