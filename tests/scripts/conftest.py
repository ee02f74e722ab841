"""A machine to run scripts/setup on: everything outside the script is a stand-in that answers as told."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: What the script may use of the real machine.
TOOLS = ["bash", "cat", "cksum", "cp", "dirname", "env", "grep", "mkdir", "mktemp", "rm", "tail", "touch"]

#: Stands in for python3 and for .venv/bin/python. Facts are files in $STATE: a probe says yes where its file is
#: there.
PYTHON = """#!/usr/bin/env bash
printf 'python %s\\n' "$*" >>"$STATE/calls"
case "$1" in
  -c)
    case "$2" in *'%d.%d'*) echo 3.11 ;; esac
    [ ! -e "$STATE/python-is-old" ] ;;
  */_probe.py)
    case "$2" in describe | versions) echo "$2" ;; esac
    case "$2" in
      opencv) [ ! -e "$STATE/two-opencv" ] || { echo 'two OpenCVs' >&2; exit 1; } ;;
      cpu-build) grep -q "^cpu" "$3" ;;
      describe | versions) ;;
      *) [ -e "$STATE/$2" ] ;;
    esac ;;
  -m)
    case "$2 $*" in
      "venv "*)
        mkdir -p "${@: -1}/bin"
        cp "$0" "${@: -1}/bin/python" ;;
      "pip "*"--dry-run"*)
        while [ "$1" != --report ]; do shift; done
        case "$*" in
          *+cpu*) [ ! -e "$STATE/cpu-index" ] || echo cpu >"$2" ;;
          *) [ ! -e "$STATE/cpu-wheel" ] || echo cpu >"$2" ;;
        esac ;;
      "pip "*" GDAL=="*)
        [ ! -e "$STATE/build-fails" ] || { echo "error: gdal.h: no such file"; exit 1; }
        [ -e "$STATE/build-is-broken" ] || touch "$STATE/gdal" ;;
      "pip "*torch==*)
        [ ! -e "$STATE/torch-fails" ] || { echo "No matching distribution"; exit 1; }
        touch "$STATE/torch-is" ;;
      "pip "*--editable*) touch "$STATE/imports" ;;
    esac ;;
esac
"""

APT = """#!/usr/bin/env bash
printf 'apt-get %s\\n' "$*" >>"$STATE/calls"
case "$*" in *install*)
  case "$*" in *libgdal-dev*) cp "$STATE/gdal-config" "$BIN/gdal-config" ;; esac
  case "$*" in *build-essential*) cp "$STATE/gdal-config" "$BIN/g++" ;; esac
  case "$*" in *-dev*) touch "$STATE/header" ;; esac
  case "$*" in *-venv*) touch "$STATE/venv" ;; esac ;;
esac
"""


class Machine:
    """A checkout with a space in its path, and a PATH that holds only what ``have`` and ``TOOLS`` put there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "a check out"
        self.bin = folder / "bin"
        self.state = folder / "state"
        for made in (self.root / "scripts", self.bin, self.state):
            made.mkdir(parents=True)
        for name in ("scripts/setup", "scripts/_probe.py", "pyproject.toml", "constraints.txt"):
            shutil.copy(ROOT / name, self.root / name)
        for tool in TOOLS:
            found = shutil.which(tool)
            assert found, tool
            (self.bin / tool).symlink_to(found)
        self.have("python3", PYTHON)
        self.have("id", "#!/usr/bin/env bash\necho 0\n")
        self.system("Linux", "x86_64")
        self.know("venv", "cpu-wheel")
        (self.state / "calls").touch()
        (self.state / "gdal-config").write_text("#!/usr/bin/env bash\necho 3.6.2\n")
        (self.state / "gdal-config").chmod(0o755)

    def have(self, name: str, text: str = "#!/usr/bin/env bash\n") -> None:
        """Put a command on the machine."""
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def know(self, *facts: str) -> None:
        """Let probes say yes."""
        for fact in facts:
            (self.state / fact).touch()

    def forget(self, *facts: str) -> None:
        """Let probes say no."""
        for fact in facts:
            (self.state / fact).unlink()

    def system(self, name: str, machine: str) -> None:
        """Say what ``uname`` answers."""
        self.have("uname", f'#!/usr/bin/env bash\n[ "$1" = -m ] && echo {machine} || echo {name}\n')

    def can_compile(self) -> None:
        """Put libgdal's headers, a compiler and Python's headers on the machine."""
        self.have("gdal-config", "#!/usr/bin/env bash\necho 3.6.2\n")
        self.have("g++")
        self.know("header")

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/setup from another folder and forget earlier calls."""
        (self.state / "calls").write_text("")
        return subprocess.run(
            [str(self.root / "scripts" / "setup"), *arguments],
            cwd=self.state,
            env={"PATH": str(self.bin), "STATE": str(self.state), "BIN": str(self.bin), "HOME": os.devnull}
            | environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def calls(self, word: str) -> list[str]:
        """Return what the last run called, of the lines that hold ``word``."""
        return [line for line in (self.state / "calls").read_text().splitlines() if word in line]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """A Linux machine with Python and pip, and neither GDAL nor apt."""
    return Machine(tmp_path)


@pytest.fixture
def debian(machine: Machine) -> Machine:
    """A Debian machine that has nothing but Python, and root."""
    machine.have("apt-get", APT)
    return machine
