"""Builds three images where no file may have more than a megabyte; prints JSON."""

import json
import resource
import sys
from pathlib import Path

import numpy as np
from conftest import Bundle, unexpected_files

from slidesampler.errors import CacheMissError

folder, backend = Path(sys.argv[1]), sys.argv[2]
bundle = Bundle(folder / "bundle", folder / "work", [(100, 100), (900, 900), (110, 100)])
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, hard))
report = bundle.build(backend)
debris = unexpected_files(bundle.workdir)
served = []
for image_id in (1, 2, 3):
    try:
        bundle.find(image_id, backend)
        served.append(image_id)
    except CacheMissError:
        continue
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
then = bundle.build(backend)
assert np.prod(bundle.find(2, backend).shape) == 900 * 900 * 3
print(
    json.dumps(
        [
            {
                "statuses": [row.status for row in report],
                "reason": report.rows[1].reason,
                "path": report.rows[1].path,
                "debris": debris,
                "served": served,
                "then": [row.status for row in then],
            }
        ]
    )
)
