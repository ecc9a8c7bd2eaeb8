"""Pages made from the files of the repository, so that nothing is written twice.

A page of ``docs/pages`` takes in a file, or the text between one of its headings and the next:

    <!-- include: README.md -->
    <!-- include: README.md, Two commands -->

Links of such a text are those of its file; here they lead to the page that shows the file they name, or to a
copy of it. ``<!-- commands -->`` is the reference of all commands. Every method gets a page: its README, and
its published rows.
"""

import posixpath
import re
import sys
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(Path(__file__).parent))

from diagram import fence  # noqa: E402  # needs the path above
from published import method_table  # noqa: E402

PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "add_a_method.md",
    "CHANGELOG.md": "changelog.md",
    "ARCHITECTURE.md": "architecture.md",
    "workflows/schemas/README.md": "keys.md",
    "results/performance.md": "performance.md",
    "results/reported/README.md": "published.md",
}
"""The page that shows a file."""

_INCLUDE = re.compile(r"^<!-- include: ([\w./]+?)(?:, (.+?))? -->$", re.MULTILINE)
_LINK = re.compile(r"(\]\()(?!https?://|#|mailto:)([^)#\s]+)(#[^)\s]*)?(\))")
_NAMED_FENCE = re.compile(r"^```(\w+) ([^\s=]+(?: \(\w+\))?)$", re.MULTILINE)
_COPIES = "files"


def on_config(config: MkDocsConfig) -> None:
    """Add diagrams and equations to the fences, and the methods to the navigation."""
    fences = [
        {"name": "mermaid", "class": "diagram", "format": fence},
        {"name": "math", "class": "equation", "format": equation},
    ]
    config.mdx_configs.setdefault("pymdownx.superfences", {})["custom_fences"] = fences
    for entry in config.nav or []:
        if isinstance(entry, dict) and "Methods" in entry:
            entry["Methods"] += [f"methods/{name}.md" for name in _methods()]


def equation(source: str, *_: Any, **__: Any) -> str:
    """LaTeX as MathML, which browsers draw without a script."""
    known = source.strip().replace("{aligned}", "{align*}")  # the same where nothing stands beside it
    # Chromium has no columnalign
    return re.sub(r'columnalign="(\w+)"', r'style="text-align: \1"', convert(known, display="block"))


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the methods' pages and the files that the included texts link to."""
    for name in _methods():
        text = f"<!-- include: methods/{name}/README.md -->\n\n## Published rows\n\n{method_table(name)}\n"
        files.append(File.generated(config, f"methods/{name}.md", content=text))
    for path in sorted({path for source in _sources(files) for path in _linked(source)}):
        if _page_of(path) is None:
            files.append(File.generated(config, f"{_COPIES}/{path}", abs_src_path=str(ROOT / path)))


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Put texts of the repository in the place of the comments that name them."""
    markdown = _INCLUDE.sub(lambda found: _included(found[1], found[2], page.file.src_uri), markdown)
    if "<!-- commands -->" in markdown:
        markdown = markdown.replace("<!-- commands -->", _commands())
    return _NAMED_FENCE.sub(r'```\1 title="\2"', markdown)


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Without a network there is no other source of the script that searches pages of the file system."""
    here = posixpath.relpath("worker_in_frame.js", posixpath.dirname(page.url) or ".")
    return output.replace("https://unpkg.com/iframe-worker/shim", here)


def _methods() -> list[str]:
    return sorted(path.parent.name for path in ROOT.glob("methods/*/README.md"))


def _sources(files: Files) -> set[str]:
    """The files of the repository that pages include."""
    texts = [file.content_string for file in files.documentation_pages()]
    return {name for text in texts for name, _ in _INCLUDE.findall(text) if name.endswith(".md")}


def _linked(source: str) -> list[str]:
    """The files of the repository that a file links to."""
    text = (ROOT / source).read_text()
    return [
        posixpath.normpath(posixpath.join(posixpath.dirname(source), link[1])) for link in _LINK.findall(text)
    ]


def _page_of(path: str) -> str | None:
    if path.startswith("results/smoke/") and path.endswith(".md"):
        return "results.md"
    method = re.fullmatch(r"methods/(\w+)/README\.md", path)
    return f"methods/{method[1]}.md" if method else PAGES.get(path)


def _included(source: str, heading: str | None, page: str) -> str:
    text = (ROOT / source).read_text()
    if not source.endswith(".md"):
        return f'```{source.rpartition(".")[2]} title="{source}"\n{text}```'
    if heading is not None:
        found = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
        if found is None:
            raise PluginError(f"{page}: {source} has no heading '{heading}'")
        text = text[found.end() :]
        end = re.search(r"^#+ ", _without_code(text), re.MULTILINE)
        text = text[: end.start()] if end else text

    def moved(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if not (ROOT / path).exists():
            raise PluginError(f"{page}: {source} links to '{link[2]}', which does not exist")
        target = _page_of(path) or f"{_COPIES}/{path}"
        return f"{link[1]}{posixpath.relpath(target, posixpath.dirname(page) or '.')}{link[3] or ''}{link[4]}"

    return _LINK.sub(moved, text).strip()


def _without_code(text: str) -> str:
    """The text with as many spaces in the place of its code blocks, whose comments look like headings."""
    return re.sub(r"^```.*?^```$", lambda block: " " * len(block[0]), text, flags=re.MULTILINE | re.DOTALL)


def _commands() -> str:
    from typer import Context
    from typer.cli import get_docs_for_click
    from typer.main import get_command

    from benchmark.cli import app

    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=Context(command, info_name="longtail"), name="longtail")
    # of placeholders such as [PRESET=N] too: not a link, not HTML
    text = re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", text)  # cut off, and in the table of contents
    return text.partition("\n")[2].replace("<", "&lt;").replace("**Usage**:", "Usage:")
