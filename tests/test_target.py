"""Targets: a closed set of keys, parsed strictly, resolved exactly."""

import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from slidesampler.errors import SlideSamplerError, TargetError, UnknownKeyError
from slidesampler.geometry import Window
from slidesampler.resolve import ImageFacts, resolve_channels, resolve_target
from slidesampler.target import Padding, Target

IMAGE = ImageFacts(7, 1000, 1200, (0.5, 0.5))


def resolve(image=IMAGE, **mapping):
    return resolve_target(Target.from_mapping({"image_id": 7, **mapping}), image)


class TestDoor:
    @pytest.mark.parametrize(
        ("old", "new"),
        [("gid", "image_id"), ("aid", "annot_id"), ("cid", "category_id"), ("vidid", "video_id")],
    )
    def test_aliases(self, old, new):
        assert getattr(Target.from_mapping({old: 3}), new) == 3
        assert Target.from_mapping({"gids": [3, 4]}).image_ids == (3, 4)

    def test_an_alias_beside_its_name_is_refused(self):
        with pytest.raises(TargetError, match="same thing"):
            Target.from_mapping({"gid": 1, "image_id": 1})

    @pytest.mark.parametrize(
        ("wrong", "right"),
        [
            ("widht", "width"),
            ("imageid", "image_id"),
            ("down_sample", "downsample"),
            ("windowdims", "window_dims"),
        ],
    )
    def test_a_misspelt_key_gets_the_right_one(self, wrong, right):
        with pytest.raises(UnknownKeyError, match=f"did you mean '{right}'"):
            Target.from_mapping({wrong: 1})

    def test_a_wild_key_gets_the_list(self):
        with pytest.raises(UnknownKeyError, match=r"a target takes .*annot_id"):
            Target.from_mapping({"zzzzzz": 1})

    def test_none_is_no_key(self):
        assert Target.from_mapping({"image_id": 1, "mpp": None}) == Target(image_id=1)

    @pytest.mark.parametrize(
        "mapping",
        [
            {"image_id": "1"},
            {"image_id": 1.5},
            {"image_id": True},
            {"cx": math.nan},
            {"width": 0},
            {"width": -4},
            {"height": "256"},
            {"downsample": 0.5},
            {"mpp": -1},
            {"size": (0, 4)},
            {"size": (1, 2, 3)},
            {"channels": []},
            {"dtype": "complex64"},
            {"dtype": "no such"},
            {"pad": (1, 2, 3)},
            {"pad": 1.5},
            {"padding": "reflct"},
            {"padding": {"mod": 1}},
            {"padding": []},
            {"window": (0, 0, 1)},
            {"window": (0, 0, 0, 4)},
            {"space_slice": (slice(0, 4), slice(0, 4, 2))},
            {"space_slice": (slice(None), slice(0, 4))},
            {"space_slice": (slice(0, 4), slice(0, 4)), "window": (0, 0, 4, 4)},
            {"window_dims": "sqare"},
            {"window_dims": (0, 3)},
            {"image_ids": []},
            {"kind": 3},
        ],
    )
    def test_values_that_their_key_cannot_take(self, mapping):
        with pytest.raises(TargetError):
            Target.from_mapping(mapping)

    def test_the_error_names_key_and_value(self):
        with pytest.raises(TargetError, match=r"target\['width'\] = -4"):
            Target.from_mapping({"width": -4})

    def test_not_a_mapping(self):
        with pytest.raises(TargetError, match="mapping or a Target"):
            Target.coerce([1, 2])

    @given(
        st.dictionaries(
            st.sampled_from(
                [
                    "image_id",
                    "cx",
                    "width",
                    "size",
                    "pad",
                    "padding",
                    "window",
                    "channels",
                    "dtype",
                    "space_slice",
                ]
            ),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
                lambda inner: (
                    st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
                ),
                max_leaves=6,
            ),
        )
    )
    def test_anything_is_a_target_or_our_error(self, mapping):
        try:
            target = Target.from_mapping(mapping)
        except SlideSamplerError:
            return
        assert isinstance(target, Target)

    def test_round_trip_through_json_and_pickle(self):
        target = Target.from_mapping(
            {
                "image_id": 2**62,
                "window": Window(-5, 3, 10, 20),
                "size": (5, 10),
                "pad": ((1, 2), (3, 4)),
                "padding": {"mode": "constant", "value": [1, 2, 3]},
                "channels": ["g", 0],
                "dtype": np.float32,
                "nodata": -1,
                "kind": "grid",
                "index": 4,
            }
        )
        assert Target.from_mapping(json.loads(json.dumps(target.to_mapping()))) == target
        assert pickle.loads(pickle.dumps(target)) == target

    def test_kwcoco_channel_word(self):
        assert Target.from_mapping({"channels": "r|b"}).channels == ("r", "b")

    def test_padding_forms(self):
        assert Padding.coerce("edge") == Padding("edge")
        assert Padding.coerce(3) == Padding("constant", (3.0,))
        assert Padding.coerce([1, 2, 3]) == Padding("constant", (1.0, 2.0, 3.0))
        assert Padding.coerce({"mode": "reflect"}) == Padding("reflect")
        assert Padding.coerce({"value": 9}) == Padding("constant", (9.0,))


class TestWhere:
    def test_centre(self):
        target = resolve(cx=2000, cy=900, width=256, height=256)
        assert (target.window, target.size, target.downsample) == (Window(772, 1872, 256, 256), (256, 256), 1.0)

    def test_float_noise_does_not_add_a_pixel(self):
        assert resolve(cx=100, cy=100, width=64.000003, height=64).size == (64, 64)

    def test_window_and_slices(self):
        by_window = resolve(window=(5, 6, 7, 8))
        by_slice = resolve(space_slice=(slice(5, 12), slice(6, 14)))
        assert by_window.window == by_slice.window == Window(5, 6, 7, 8)

    def test_whole_image(self):
        target = resolve()
        assert (target.window, target.size) == (Window(0, 0, 1000, 1200), (1000, 1200))

    @pytest.mark.parametrize(
        ("pad", "expected"),
        [
            (2, Window(8, 18, 14, 14)),
            ((1, 3), Window(9, 17, 12, 16)),
            (((1, 2), (3, 4)), Window(9, 17, 13, 17)),
        ],
    )
    def test_pad_grows_the_window(self, pad, expected):
        target = resolve(window=(10, 20, 10, 10), pad=pad)
        assert (target.window, target.size) == (expected, expected.shape)

    @pytest.mark.parametrize(
        ("dims", "expected"),
        [
            (None, Window(10, 20, 11, 31)),
            ("extent", Window(10, 20, 11, 31)),
            ("square", Window(0, 20, 30, 30)),
            ((8, 4), Window(11, 33, 8, 4)),
        ],
    )
    def test_annotation_boxes(self, dims, expected):
        facts = ImageFacts(7, 1000, 1200, None, (20.5, 10.5, 50.5, 20.5))
        target = resolve_target(Target(annot_id=3, window_dims=dims), facts)
        assert target.window == expected
        assert target.annot_id == 3

    def test_the_extent_window_holds_the_whole_box(self):
        rng = np.random.default_rng(0)
        for x0, y0, w, h in rng.uniform(0.0, 50.0, (200, 4)):
            facts = ImageFacts(7, 1000, 1200, None, (x0, y0, x0 + w, y0 + h))
            window = resolve_target(Target(annot_id=3), facts).window
            assert window.x <= x0 < x0 + w <= window.x1
            assert window.y <= y0 < y0 + h <= window.y1
            assert window.width < w + 2
            assert window.height < h + 2

    def test_a_point_annotation_has_a_window_of_one_pixel(self):
        facts = ImageFacts(7, 1000, 1200, None, (5.25, 6.75, 5.25, 6.75))
        assert resolve_target(Target(annot_id=3), facts).window == Window(6, 5, 1, 1)

    @pytest.mark.parametrize(
        "mapping",
        [
            {"cx": 3},
            {"cx": 3, "cy": 3},
            {"cx": 3, "cy": 3, "width": 4},
            {"width": 4, "height": 4},
            {"window": (0, 0, 4, 4), "cx": 1, "cy": 1},
            {"window": (0, 0, 4, 4), "width": 4, "height": 4},
            {"window_dims": "square"},
            {"downsample": 2, "mpp": 1.0},
            {"window": (0, 0, 64, 64), "size": (32, 32), "pad": 4},
            {"window": (0, 0, 64, 64), "size": (32, 32), "downsample": 4},
            {"window": (0, 0, 4, 4), "pad": -3},
            {"window": (10**17, 0, 4, 4)},
            {"cx": 1e30, "cy": 0, "width": 4, "height": 4},
            {"cx": 0, "cy": 0, "width": 1e30, "height": 4},
            {"window": (0, 0, 4, 4), "size": (10**9, 1)},
        ],
    )
    def test_contradictions(self, mapping):
        with pytest.raises(TargetError):
            resolve(**mapping)


class TestHow:
    def test_downsample_shrinks_the_output(self):
        target = resolve(window=(0, 0, 255, 64), downsample=2)
        assert target.size == (128, 32)

    def test_size_at_a_downsample_is_exact(self):
        target = resolve(cx=500, cy=500, size=(100, 200), downsample=3)
        assert (target.window.shape, target.size) == ((300, 600), (100, 200))

    def test_mpp_uses_each_axis_resolution(self):
        facts = ImageFacts(7, 1000, 1200, (0.25, 0.5))
        target = resolve_target(Target(image_id=7, cx=500, cy=500, size=(64, 64), mpp=1.0), facts)
        assert target.window.shape == (256, 128)

    def test_mpp_close_to_native(self):
        facts = ImageFacts(7, 1000, 1200, (0.2528, 0.2528))
        target = resolve_target(Target(image_id=7, cx=500, cy=500, size=(256, 256), mpp=0.25), facts)
        assert target.window.shape == (254, 254)
        assert target.size == (256, 256)

    def test_mpp_of_an_unknown_resolution_says_how_to_give_it(self):
        with pytest.raises(TargetError, match=r"Sampler\(\.\.\., mpp="):
            resolve_target(Target(image_id=7, mpp=1.0), ImageFacts(7, 10, 10, None))

    def test_mpp_in_the_wrong_unit(self):
        with pytest.raises(TargetError, match="micrometres"):
            resolve(mpp=0.0005)

    @given(
        cy=st.floats(-1e4, 1e4),
        cx=st.floats(-1e4, 1e4),
        size=st.tuples(st.integers(1, 600), st.integers(1, 600)),
        scale=st.floats(1, 40),
        by=st.sampled_from(["downsample", "mpp"]),
    )
    def test_the_asked_size_is_the_size_and_resolving_again_changes_nothing(self, cy, cx, size, scale, by):
        how = {by: scale if by == "downsample" else scale * 0.5}
        once = resolve(cx=cx, cy=cy, size=size, **how)
        assert once.size == size
        assert once.window.height - 1 < size[0] * scale + 1e-3
        assert resolve_target(once, IMAGE) == once

    @given(
        window=st.builds(
            Window, st.integers(-99, 99), st.integers(-99, 99), st.integers(1, 900), st.integers(1, 900)
        ),
        downsample=st.floats(1, 20),
        pad=st.integers(0, 30),
    )
    def test_windows_resolve_once(self, window, downsample, pad):
        once = resolve(window=window, downsample=downsample, pad=pad)
        assert once.window == window.grow(pad, pad, pad, pad)
        assert resolve_target(once, IMAGE) == once


class TestChannels:
    def test_names_and_indices(self):
        assert resolve_channels(("b", 0), ("r", "g", "b"), 3, "image 1") == (2, 0)
        assert resolve_channels(("r", "g", "b"), ("r", "g", "b"), 3, "image 1") is None

    def test_unknown_name_lists_what_there_is(self):
        with pytest.raises(TargetError, match=r"has r, g, b; did you mean 'g'|has r, g, b"):
            resolve_channels(("gg",), ("r", "g", "b"), 3, "image 1")

    @pytest.mark.parametrize("index", [3, -1])
    def test_index_out_of_range(self, index):
        with pytest.raises(TargetError, match="counted from 0"):
            resolve_channels((index,), (), 3, "image 1")
