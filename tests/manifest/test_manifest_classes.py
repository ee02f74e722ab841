"""Categories -> class indices."""

import pytest
from manifest_samples import full

from slidesampler.errors import ManifestError
from slidesampler.manifest import Manifest
from slidesampler.models import NO_CATEGORY


def classes(categories, class_map=None):
    return Manifest.load({"images": [], "categories": categories}, class_map=class_map).class_map


def tree():
    return [
        {"id": 1, "name": "lung", "supercategory": "tissue"},
        {"id": 2, "name": "adeno", "supercategory": "tumour"},
        {"id": 3, "name": "tumour", "supercategory": "tissue"},
        {"id": 4, "name": "pen", "supercategory": "artefact"},
        {"id": 5, "name": "fold", "supercategory": "artefact"},
    ]


def test_classes_go_in_the_manifests_order():
    found = Manifest.load(full()).class_map
    assert found.names == ("background", "tumour", "stroma")
    assert found.category_to_index == {3: 1, -5: 2, 2**40: 255}
    assert found.parents == {"tumour": "tissue", "stroma": "tissue"}
    assert found.index_of(NO_CATEGORY) == found.ignore == 255
    assert Manifest.load(full()).category_names == {3: "tumour", -5: "stroma", 2**40: "ignore"}


def test_background_and_ignore_are_known_in_any_case():
    found = classes([{"id": 1, "name": "Ignore"}, {"id": 2, "name": "BACKGROUND"}, {"id": 3, "name": "a"}])
    assert found.names == ("background", "a")
    assert found.category_to_index == {1: 255, 2: 0, 3: 1}


@pytest.mark.parametrize(
    ("class_map", "names", "indexes"),
    [
        ({}, ("background", "lung", "adeno", "tumour", "pen", "fold"), [1, 2, 3, 4, 5]),
        ({"artefact": "ignore"}, ("background", "lung", "adeno", "tumour"), [1, 2, 3, 255, 255]),
        ({"artefact": "Background"}, ("background", "lung", "adeno", "tumour"), [1, 2, 3, 0, 0]),
        # A supercategory stands for all its descendants, and the nearest entry of a category wins.
        ({"tissue": "tissue", "artefact": 0}, ("background", "tissue"), [1, 1, 1, 0, 0]),
        ({"tissue": "tissue", "tumour": 2, "artefact": 0}, ("background", "tissue", "tumour"), [1, 2, 2, 0, 0]),
        ({"tumour": 1, "pen": "ignore"}, ("background", "tumour", "lung", "fold"), [2, 1, 1, 255, 3]),
        # A name is the class of that name, also where an entry gave it an index.
        ({"adeno": "lung"}, ("background", "lung", "tumour", "pen", "fold"), [1, 1, 2, 3, 4]),
        ({"tumour": 1, "lung": "tumour", "artefact": 0}, ("background", "tumour"), [1, 1, 1, 0, 0]),
        ({"tissue": 3, "artefact": "x"}, ("background", "x", "class_2", "tissue"), [3, 3, 3, 1, 1]),
    ],
)
def test_class_map_merges_and_moves(class_map, names, indexes):
    found = classes(tree(), class_map)
    assert found.names == names
    assert [found.category_to_index[one] for one in range(1, 6)] == indexes


def test_many_classes_make_masks_16_bits_wide():
    many = [{"id": one, "name": f"c{one}"} for one in range(1, 256)]
    few = classes([*many[:254], {"id": 0, "name": "ignore"}])
    assert (few.ignore, few.dtype.name, few.category_to_index[0]) == (255, "uint8", 255)
    wide = classes([*many, {"id": 0, "name": "ignore"}])
    assert (wide.ignore, wide.dtype.name, wide.category_to_index[0]) == (65535, "uint16", 65535)
    assert wide.category_to_index[255] == 255


@pytest.mark.parametrize(
    ("class_map", "problem"),
    [
        ({"adneo": 1}, "did you mean 'adeno'"),
        ({5: 1}, "5 is no category"),
        ({"lung": -1}, "from 0 to 65534"),
        ({"lung": 65535}, "from 0 to 65534"),
        ({"lung": 1.0}, "must be an integer"),
        ({"lung": True}, "must be an integer"),
        ({"lung": None}, "must be an integer"),
        ({"lung": ""}, "or a name"),
        ({"lung": 255}, "say 'ignore'"),
    ],
)
def test_a_bad_class_map_says_so(class_map, problem):
    with pytest.raises(ManifestError, match=problem) as caught:
        classes(tree(), class_map)
    assert caught.value.field == "class_map"


@pytest.mark.parametrize(
    ("categories", "problem"),
    [
        ([{"id": 1, "name": "a"}, {"id": 2, "name": "a"}], "name 'a' is also that of category 1"),
        ([{"id": 1}], "category 1: name is missing"),
        ([{"id": 1, "name": 5}], "category 1: name must be a string"),
        ([{"id": 1, "name": "a", "supercategory": ["b"]}], "category 1: supercategory must be a string"),
        ([{"id": NO_CATEGORY, "name": "a"}], "stands for annotations without"),
        (
            [
                {"id": 1, "name": "a", "supercategory": "b"},
                {"id": 2, "name": "b", "supercategory": "c"},
                {"id": 3, "name": "c", "supercategory": "b"},
            ],
            "goes in a circle",
        ),
    ],
)
def test_bad_categories_say_so(categories, problem):
    with pytest.raises(ManifestError, match=problem):
        classes(categories)


def test_a_category_may_name_itself_as_its_supercategory():
    assert classes([{"id": 1, "name": "a", "supercategory": "a"}]).parents == {}
