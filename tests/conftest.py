"""What every room's tests may ask for."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Machines that run tests are shared: a slow moment must not fail a property.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# What tests leave in the user's cache folder is theirs, and gone with them. Set here, not in a fixture: child
# processes and module-level fixtures need it, too.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _CACHE = tempfile.TemporaryDirectory(prefix="slidesampler-tests-")
    # matplotlib's list of fonts takes seconds to make: it stays where it is.
    _USER = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    os.environ.setdefault("MPLCONFIGDIR", str(_USER / "matplotlib"))
    os.environ["XDG_CACHE_HOME"] = _CACHE.name

#: Where the real slide is looked for when SLIDESAMPLER_TEST_SLIDE does not say: beside the checkout.
SHARED_SLIDE = Path(__file__).resolve().parents[2] / "shared" / "data" / "CMU-1-Small-Region.svs"


@pytest.fixture(scope="session")
def real_slide() -> Path:
    """A real slide: OpenSlide's CMU-1-Small-Region.svs, 2967 rows by 2220 columns."""
    named = os.environ.get("SLIDESAMPLER_TEST_SLIDE")
    path = Path(named) if named else SHARED_SLIDE
    if not path.is_file():
        if named:
            pytest.fail(f"SLIDESAMPLER_TEST_SLIDE names {path}, which is not there")
        pytest.skip(f"no real slide at {path}; set SLIDESAMPLER_TEST_SLIDE to CMU-1-Small-Region.svs")
    return path
