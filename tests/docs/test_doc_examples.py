"""Every example of the README and the docs runs, in order, page by page, as a reader would type it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile

from slidesampler.testing import make_dataset

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(python|console)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def script_of(page):
    """Return the page's examples as one script: python as it stands, ``$`` lines as commands.

    Python that begins with ``# file: NAME`` is written to that file instead.
    """
    parts = []
    for language, body in FENCE.findall(page.read_text()):
        if language == "python":
            name = re.match(r"# file: (\S+)\n", body)
            parts.append(f"open({name[1]!r}, 'w').write({body!r})" if name else body)
            continue
        parts += [run_line(line[2:]) for line in body.splitlines() if line.startswith("$ ")]
    return "\n".join(parts)


def run_line(command):
    """Return the Python line that runs a shell command."""
    return f"import subprocess; subprocess.run({command!r}, shell=True, check=True)\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """What the pages take for granted: a folder of slides, masks for them, and a manifest."""
    folder = tmp_path_factory.mktemp("reader")
    made = make_dataset(folder / "slides", n_slides=2, height=2000, width=2400, seed=1)
    document = json.loads(made.read_text())
    (folder / "masks").mkdir()
    for image in document["images"]:
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        mask[100:300, 200:500] = 1
        tifffile.imwrite(folder / "masks" / image["file_name"], mask, tile=(256, 256), compression="deflate")
        image["file_name"] = f"slides/{image['file_name']}"
    made.unlink()
    (folder / "slides.kwcoco.json").write_text(json.dumps(document))
    return folder


@pytest.mark.parametrize("page", [p for p in PAGES if script_of(p)], ids=lambda p: str(p.relative_to(ROOT)))
def test_page(page, data, tmp_path):
    shutil.copytree(data, tmp_path, dirs_exist_ok=True)
    script = tmp_path / "page.py"
    # The README builds in a `sh` block, beside commands that set up the machine.
    commands = ["slidesampler build slides.kwcoco.json --workdir cache"] if page.name == "README.md" else []
    script.write_text("".join(map(run_line, commands)) + script_of(page))
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        [sys.executable, "page.py"],
        cwd=tmp_path,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"


def test_the_pages_have_examples():
    assert len([page for page in PAGES if script_of(page)]) >= 6


def test_links_between_pages_lead_somewhere():
    links = [
        (page, target)
        for page in PAGES
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
        if "://" not in target
    ]
    assert len(links) >= 8
    assert [link for link in links if not (link[0].parent / link[1]).exists()] == []
