"""What becomes of sources that may not be read; gives up root's rights once all is imported."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import tifffile

from slidesampler.cache import BuildSpec, CacheStore, build
from slidesampler.cache import store as store_module
from slidesampler.errors import CacheError
from slidesampler.manifest import Manifest


def main(folder: Path) -> dict:
    pixels = np.zeros((60, 90, 3), np.uint8)
    for name in ("s1.tif", "s2.tif"):
        tifffile.imwrite(folder / name, pixels, photometric="rgb")
    manifest = Manifest.load(
        {"images": [{"id": number, "file_name": f"s{number}.tif"} for number in (1, 2)]}, bundle_dir=folder
    )
    store = CacheStore(folder / "work")
    first = build(manifest, BuildSpec(backend="npy", labels=False), store, only_images=[1])
    for name in ("s1.tif", "s2.tif"):
        (folder / name).chmod(0)
    store_module._COMPARED.clear()
    served = store.find_image(manifest.record(1), "npy")
    report = build(manifest, BuildSpec(backend="npy", labels=False), store)
    (folder / "s1.tif").chmod(0o600)
    (folder / "s1.tif").write_bytes(b"edited")
    (folder / "s1.tif").chmod(0)
    try:
        stale = store.find_image(manifest.record(1), "npy").key
    except CacheError as error:
        stale = type(error).__name__
    return {
        "first": [row.status for row in first],
        "served": served.shape,
        "statuses": [row.status for row in report],
        "reason": report.rows[1].reason,
        "stale": stale,
    }


root = Path(sys.argv[1])
for name in ("warm", "real"):
    (root / name).mkdir()
    if os.geteuid() == 0:
        os.chown(root / name, 65534, 65534)
# Everything that is imported at need is imported now: another user may not see the interpreter's files.
main(root / "warm")
if os.geteuid() == 0:
    os.setegid(65534)
    os.seteuid(65534)
print(json.dumps(main(root / "real")))
