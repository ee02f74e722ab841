from __future__ import annotations

import pytest

from slidesampler.errors import TargetError, UnknownKeyError
from slidesampler.sampling import FixedSource
from slidesampler.target import Target


def test_gives_the_targets_in_order():
    given = [{"image_id": 4}, Target(annot_id=9), {"gid": 5, "window": (0, 1, 2, 3)}]
    source = FixedSource(iter(given))
    assert [source.target(7, i) for i in range(len(source))] == [
        Target(image_id=4),
        Target(annot_id=9),
        Target.from_mapping({"image_id": 5, "window": (0, 1, 2, 3)}),
    ]


def test_later_changes_of_the_list_do_not_matter():
    mapping = {"image_id": 4}
    targets = [mapping]
    source = FixedSource(targets)
    mapping["image_id"] = 5
    targets.append({"image_id": 6})
    assert len(source) == 1
    assert source.target(0, 0) == Target(image_id=4)


def test_checks_every_target_at_once():
    with pytest.raises(UnknownKeyError, match=r"targets\[1\].*'hieght'.*'height'"):
        FixedSource([{"image_id": 1}, {"image_id": 1, "hieght": 3}])
    with pytest.raises(TargetError, match=r"targets\[2\].*mapping or a Target, got int"):
        FixedSource([{"image_id": 1}, {"image_id": 1}, 3])


@pytest.mark.parametrize("one", [{"image_id": 1}, Target(image_id=1)])
def test_one_target_is_no_list(one):
    with pytest.raises(TargetError, match=r"put it into \[ \]"):
        FixedSource(one)


def test_no_targets():
    source = FixedSource([])
    assert len(source) == 0
    with pytest.raises(IndexError, match="0 targets"):
        source.target(0, 0)
