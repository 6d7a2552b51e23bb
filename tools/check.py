"""Contract toolchain: `make check`, every static check of the project, side by side.

Invariant: a check that passes prints one line; one that fails prints all it said.
"""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent

# The slow ones first, so that the quick ones fill the other processors meanwhile.
CHECKS: Final[dict[str, list[str]]] = {
    "types": ["mypy", "."],
    "generated files are fresh": ["python", "-m", "tools.generate", "--check"],
    "import contracts": ["lint-imports", "--no-logo"],
    "python lint": ["ruff", "check", "--quiet", "."],
    "python format": ["ruff", "format", "--quiet", "--diff", "."],
    "proto lint": ["buf", "lint"],
    "proto format": ["buf", "format", "--diff", "--exit-code", "--path", "proto/tollway"],
    "sql rules": ["sqlc", "vet"],
    "proto keeps its promise": ["python", "-m", "tools.breaking"],
}
# What these print is of interest although they pass: what may change, and which clients could not be compared.
TALKING: Final = ("proto keeps its promise", "generated files are fresh")


@dataclass(frozen=True, slots=True)
class Ended:
    """How one check ended: what it printed and how long it took in seconds."""

    name: str
    passed: bool
    output: str
    took_s: float


def main() -> None:
    """Run all checks; exit 1 and name the failed ones when there are any."""
    failed: list[str] = []
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:
        for future in as_completed([pool.submit(run, *check) for check in CHECKS.items()]):
            ended = future.result()
            print(f"{'ok  ' if ended.passed else 'FAIL'} {ended.name} ({ended.took_s:.1f} s)")
            if not ended.passed:
                failed.append(ended.name)
            if not ended.passed or ended.name in TALKING:
                print(ended.output, end="", flush=True)
    if failed:
        raise SystemExit(f"make check failed: {', '.join(sorted(failed))}")


def run(name: str, command: list[str]) -> Ended:
    """Run one check with the tools of this interpreter's environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    started = time.perf_counter()
    ended = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return Ended(name, ended.returncode == 0, ended.stdout, time.perf_counter() - started)


if __name__ == "__main__":
    main()
