"""What mkdocs is told beside mkdocs.yml: pages that lie beside the code they are about become pages of the
site, and so does the notebook; links to other files of the repository become plain words, as the site does
not have them."""

import json
import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"deploy/README.md": "runbook.md", "bench/README.md": "bench.md", "CHANGELOG.md": "changelog.md"}
"""The page of the site for each file outside of docs/."""

NOTEBOOK = "a-look-around"


def on_files(files: "Files", config: Any) -> "Files":
    """Add the pages that lie elsewhere, and the notebook."""
    from mkdocs.structure.files import File

    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    notebook = json.loads((ROOT / "docs" / f"{NOTEBOOK}.ipynb").read_text(encoding="utf-8"))
    page, pictures = page_of(notebook)
    files.append(File.generated(config, f"{NOTEBOOK}.md", content=page))
    for name, svg in pictures.items():
        files.append(File.generated(config, name, content=svg))
    return files


def page_of(notebook: dict[str, Any]) -> tuple[str, dict[str, str]]:
    """The notebook with its results as Markdown, and the pictures of the page by their paths."""
    parts: list[str] = []
    pictures: dict[str, str] = {}
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```")
        for output in cell.get("outputs", ()):
            shown = {kind: "".join(lines) for kind, lines in output.get("data", {}).items()}
            if svg := shown.get("image/svg+xml"):
                name = f"{NOTEBOOK}/{cell['id']}.svg"
                pictures[name] = svg
                title = shown["text/plain"].partition("\n")[0]
                parts.append(f"![{title}]({name})")
            elif table := shown.get("text/html"):
                bare = re.sub(r"<style>.*?</style>", "", table, flags=re.DOTALL)
                bare = bare.replace(' border="1" class="dataframe"', "")
                parts.append(re.sub(r"<td>&quot;(.*?)&quot;</td>", r"<td>\1</td>", bare))
    return "\n\n".join(parts) + "\n", pictures


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page with its links as the site has them."""
    here = page.file.src_uri
    sources = {site: source for source, site in PAGES.items()}
    folder = PurePosixPath(sources.get(here, f"docs/{here}")).parent

    def linked(found: re.Match[str]) -> str:
        words, target, anchor = found.groups()
        path = normpath(str(folder / target))
        if path == f"docs/{NOTEBOOK}.ipynb":
            path = f"docs/{NOTEBOOK}.md"
        site = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if site is None:
            return str(words)
        return f"[{words}]({relpath(site, str(PurePosixPath(here).parent))}{anchor or ''})"

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", linked, markdown)
