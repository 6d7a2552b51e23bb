"""Contract toolchain: is the contract still compatible with what clients were promised?

From release 0.1.0 on a breaking change fails against proto/released.binpb. Before, there is no
promise: a change that breaks the previous commit's contract is reported and allowed.
"""

import subprocess
import tempfile
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
RELEASED: Final = "proto/released.binpb"
FIRST_PROMISE: Final = (0, 1)
# Imports are in the image too, but only what is under this path is compared.
OURS: Final = ("--path", "proto/tollway")


def main() -> None:
    """Compare with the released image, or before the first release with the previous commit."""
    released = ROOT / RELEASED
    if not released.is_file() and version(ROOT) >= FIRST_PROMISE:
        raise SystemExit(f"{RELEASED} is missing: the release forgot `make released`.")
    with tempfile.TemporaryDirectory(prefix="tollway-breaking-") as folder:
        now, before = Path(folder) / "now.binpb", Path(folder) / "before.binpb"
        if buf("build", *OURS, "-o", str(now)):
            raise SystemExit("The protos do not build.")
        if released.is_file():
            raise SystemExit(buf("breaking", str(now), "--against", str(released)))
        archive = previous_commit()
        if archive is None or buf("build", "-#format=tar", *OURS, "-o", str(before), stdin=archive):
            print("     no release, and no earlier commit to compare with")
        elif buf("breaking", str(now), "--against", str(before)):
            print("     reported only: nothing is promised before release 0.1.0")


def buf(*arguments: str, stdin: bytes = b"") -> int:
    """Run buf in the project; what it says goes to the terminal. Returns its exit code."""
    return subprocess.run(["buf", *arguments], cwd=ROOT, input=stdin, check=False).returncode


def version(root: Path) -> tuple[int, int]:
    """Major and minor of the project's version."""
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    major, minor, *_ = project["version"].split(".")
    return int(major), int(minor)


def previous_commit() -> bytes | None:
    """The protos of the commit before the last as a tar file, or None where there is none."""
    ended = subprocess.run(
        ["git", "archive", "HEAD~1", "proto", "buf.yaml"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    return ended.stdout if ended.returncode == 0 else None


if __name__ == "__main__":
    main()
