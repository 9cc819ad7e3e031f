"""Build the image with docker, podman or buildah, whichever is there,
and write the commit of the source into it.

python -m deploy.image [--tag cfjobs] [--torch-index-url URL] [--engine NAME] [-- ARGUMENTS OF ITS build]
"""

import argparse
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
_ALIVE = {"docker": ["docker", "info"], "podman": ["podman", "info"], "buildah": ["buildah", "version"]}


def main() -> int:
    """Build; returns the engine's exit code."""
    parser = argparse.ArgumentParser(prog="python -m deploy.image", description="Build the image.")
    parser.add_argument("--tag", default="cfjobs")
    parser.add_argument("--torch-index-url", default="", help="wheel index of another build of torch")
    parser.add_argument("--engine", choices=tuple(_ALIVE), default=None, help="the first at work by default")
    parser.add_argument("rest", nargs="*", metavar="-- ARGUMENT", help="passed to the engine's build")
    arguments = parser.parse_args()
    engine = arguments.engine or installed()
    if engine is None:
        print(f"image: needs one of {', '.join(_ALIVE)}, at work; install one", file=sys.stderr)
        return 2
    command = [engine, "build", "--tag", arguments.tag, "--build-arg", f"GIT_COMMIT={commit()}"]
    command += ["--build-arg", f"TORCH_INDEX_URL={arguments.torch_index_url}", *kept(engine)]
    return subprocess.run([*command, *arguments.rest, str(ROOT)], check=False).returncode


def installed() -> str | None:
    """The first engine that is there and answers: a docker without its daemon builds nothing."""
    for engine, question in _ALIVE.items():
        if (
            shutil.which(engine)
            and subprocess.run(question, capture_output=True, check=False).returncode == 0
        ):
            return engine
    return None


def kept(engine: str) -> Sequence[str]:
    """Keep the layers, so that a change of the source does not install the dependencies again."""
    return () if engine == "docker" else ("--layers",)


def commit() -> str:
    """The commit of the source; with -changed where the checkout differs from it, empty outside of one."""
    asked = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--abbrev=40", "--dirty=-changed", "--exclude=*"],
        capture_output=True,
        text=True,
        check=False,
    )
    return asked.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
