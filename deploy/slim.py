"""Take out of the image's packages what no night needs, and compile what it imports.

    python slim.py /venv

Taken out: tests, C++ headers and tools of the big packages, and the symbols of shared libraries. Modules
are compiled by importing what server, workers and nights import, so that no start compiles them again and the
rest takes no room. Runs while the image is built, on the standard library alone.
"""

import shutil
import subprocess
import sys
from pathlib import Path

UNNEEDED = (
    "torch/test",
    "torch/include",
    "torch/bin/protoc*",
    "torch/bin/test_*",
    "torch/bin/*_test",
    "torch/lib/*_test.so",
    "torch/share",
    "pyarrow/include",
    "pyarrow/tests",
    "pyarrow/*flight*",
    "numba/tests",
    "numba/cuda/tests",
    "sympy/**/tests",
    "sympy/physics",
    "numpy/[a-z]*/tests",
    "kubernetes_asyncio/test",
    "botocore/data/[!s_]*/",
    "botocore/data/s[!3st]*/",
    "networkx/**/tests",
)
"""Below the packages. Tests of numpy's core stay: its own `testing` imports from them. Of the services of AWS
the store and those that give credentials stay (s3, ssm, sso, sts)."""
STARTED = (
    "prefect.cli",
    "prefect.engine",
    "prefect.server.api.server",
    "prefect.workers.process",
    "prefect_kubernetes",
    "torch",
    "numba",
    "numpy",
    "numba.core.typing.templates",
    "polars",
    "deltalake",
    "pyarrow.parquet",
    "pyarrow.dataset",
    "boto3",
    "jinja2",
    "safetensors.torch",
    "asyncpg",
    "aiosqlite",
    "openlineage.client",
)
_CONSOLE = "#!/venv/bin/python\nfrom cfjobs.cli import main\n\nmain()\n"


def main() -> int:
    """Slim the environment; returns 1 where what a night imports is gone."""
    missing = slim(Path(sys.argv[1]))
    for module in missing:
        print(f"slim: {module} cannot be imported any more", file=sys.stderr)
    return int(bool(missing))


def slim(environment: Path) -> list[str]:
    """Do it; returns the modules that cannot be imported after it."""
    (packages,) = environment.glob("lib/python*/site-packages")
    for pattern in UNNEEDED:
        for path in list(packages.glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    if shutil.which("strip"):
        for library in packages.rglob("*.so*"):
            repaired = library.parent.name.endswith(".libs")  # by auditwheel: stripped, it does not load
            if library.is_file() and not (repaired or library.is_symlink()) and library.stat().st_size > 4e6:
                subprocess.run(["strip", "--strip-unneeded", str(library)], check=False)
    console = environment / "bin" / "cfjobs"
    console.write_text(_CONSOLE)
    console.chmod(0o755)
    python = environment / "bin" / "python"
    return [
        module
        for module in STARTED
        if subprocess.run([python, "-c", f"import {module}"], check=False).returncode
    ]


if __name__ == "__main__":
    sys.exit(main())
