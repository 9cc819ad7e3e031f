"""Whether Prefect's server is well: its API answers and its UI is there. Exit code 0, or 1 and why.

python -m deploy.health [http://127.0.0.1:4200]
"""

import sys
import urllib.error
import urllib.request


def main() -> int:
    """Ask; returns the exit code."""
    server = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:4200"
    for path, kind in (("/api/health", "json"), ("/dashboard", "html")):
        try:
            request = urllib.request.Request(server + path, headers={"Accept": f"text/{kind}"})
            with urllib.request.urlopen(request, timeout=5) as answer:
                found = answer.headers.get_content_type()
        except (urllib.error.URLError, OSError) as error:
            print(f"health: {server}{path}: {error}", file=sys.stderr)
            return 1
        if kind not in found:
            print(f"health: {server}{path}: got {found}, expected {kind}; is there a UI?", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
