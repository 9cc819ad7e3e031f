"""What mkdocs is told beside mkdocs.yml: pages that lie beside the code they are about become pages of the
site, and links to other files of the repository become plain words, as the site does not have them."""

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"deploy/README.md": "runbook.md", "bench/README.md": "bench.md", "CHANGELOG.md": "changelog.md"}
"""The page of the site for each file outside of docs/."""


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie elsewhere."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The text of a page with its links as the site has them."""
    here = page.file.src_uri
    sources = {site: source for source, site in PAGES.items()}
    folder = PurePosixPath(sources.get(here, f"docs/{here}")).parent

    def linked(found: re.Match[str]) -> str:
        words, target, anchor = found.groups()
        path = normpath(str(folder / target))
        site = PAGES.get(path) or (path.removeprefix("docs/") if path.startswith("docs/") else None)
        if site is None:
            return str(words)
        return f"[{words}]({relpath(site, str(PurePosixPath(here).parent))}{anchor or ''})"

    return re.sub(r"\[([^\]]+)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)", linked, markdown)
