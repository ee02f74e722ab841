import subprocess
import sys

import pytest

import slidesampler.testing as front


def test_public_names_are_sorted_and_there():
    assert list(front.__all__) == sorted(front.__all__)
    assert all(hasattr(front, name) for name in front.__all__)
    assert dir(front) == sorted(front.__all__)


def test_unknown_name():
    with pytest.raises(AttributeError, match="make_slides"):
        front.make_slides  # noqa: B018


def test_arrays_need_nothing_but_numpy():
    code = (
        "import sys; from slidesampler.testing import make_array; make_array(2, 2); "
        "print(sorted({'cv2', 'tifffile', 'torch', 'osgeo', 'pytest'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
