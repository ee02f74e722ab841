import numpy as np
import pytest

from slidesampler.testing import make_array


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((37, 53, 3), np.uint8),
        ((200, 300, 2), np.uint8),
        ((16, 16, 1), np.uint8),
        ((200, 300, 1), np.uint16),
        ((200, 300, 1), np.int16),
        ((90, 70, 5), np.float32),
        ((50, 60, 1), np.uint32),
    ],
)
def test_every_pixel_differs(shape, dtype):
    array = make_array(*shape, dtype)
    assert array.shape == shape
    assert array.dtype == dtype
    assert len(np.unique(array.reshape(-1, shape[2]), axis=0)) == shape[0] * shape[1]


def test_one_channel_of_bytes_is_spread_evenly():
    counts = np.bincount(make_array(64, 64, 1, np.uint8).ravel(), minlength=256)
    assert counts.tolist() == [16] * 256


def test_channels_differ_from_each_other():
    array = make_array(40, 40, 3, np.uint16)
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (array[..., a] == array[..., b]).mean() < 0.01


def test_the_seed_decides():
    np.testing.assert_array_equal(make_array(9, 8, 3, seed=4), make_array(9, 8, 3, seed=4))
    assert (make_array(9, 8, 3, seed=4) != make_array(9, 8, 3, seed=5)).any()


def test_signed_and_float_values_are_in_range():
    assert make_array(200, 200, 1, np.int16).min() < 0
    values = make_array(20, 20, 2, np.float32)
    assert np.isfinite(values).all()
    np.testing.assert_array_equal(values * 16, np.rint(values * 16))


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least 1"):
        make_array(0, 4)
    with pytest.raises(ValueError, match="dtype"):
        make_array(4, 4, dtype="U3")
