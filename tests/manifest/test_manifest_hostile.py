"""Whatever a manifest holds, loading it gives a manifest or a ManifestError that can be shown and pickled."""

import json
import pickle

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from manifest_samples import full

from slidesampler.errors import ManifestError
from slidesampler.manifest import Manifest

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([2**63, -(2**63), 2**64, 10**400, 0, -1, 3, 10])
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["labels", "valid", "a:0:9", "rgb", "\ud800", "\0", "/vsimem/x", "A:b", "0", "ignore"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(
                ["id", "xy", "exterior", "interiors", "counts", "size", "file_name", "name", "order"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


def paths(value, prefix=()):
    """The way to everything in a JSON value."""
    yield prefix
    if isinstance(value, dict):
        for key, one in value.items():
            yield from paths(one, (*prefix, key))
    elif isinstance(value, list):
        for position, one in enumerate(value):
            yield from paths(one, (*prefix, position))


PATHS = [path for path in paths(full()) if path]


def mutate(data, path, change, value):
    for step in path[:-1]:
        try:
            data = data[step]
        except (KeyError, IndexError, TypeError):
            return  # an earlier mutation took it away
    last = path[-1]
    try:
        if change == "remove":
            del data[last]
        elif change == "repeat":
            data.append(data[last])
        else:
            data[last] = value
    except (KeyError, IndexError, TypeError, AttributeError):
        return


def load(source, **arguments):
    """A manifest that answers, or None where it was refused in the proper way."""
    refused = None
    try:
        manifest = Manifest.load(source, **arguments)
    except ManifestError as error:
        refused = error
    if refused is not None:
        again = pickle.loads(pickle.dumps(refused))
        assert (str(again), again.field) == (str(refused), refused.field)
        assert str(refused)
        return None
    for record in manifest.records():
        assert record.assets
        assert len(manifest.shapes_of(record.image_id)) >= 0
    return manifest


MUTATIONS = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from(["replace", "remove", "repeat"]), VALUES),
    min_size=1,
    max_size=3,
)


@given(MUTATIONS)
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_mutations_raise_nothing_but_manifest_errors(mutations):
    data = full()
    for path, change, value in mutations:
        mutate(data, path, change, value)
    found = load(data)
    try:
        text = json.dumps(data)
    except (ValueError, TypeError):
        return
    # What is written as JSON comes back as it went.
    again = load(json.loads(text))
    assert (found is None) == (again is None)
    assert found == again


@given(VALUES)
@settings(max_examples=100, deadline=None)
def test_anything_at_all_raises_nothing_but_manifest_errors(value):
    load(value if isinstance(value, dict) else {"images": value})
    for table in ("annotations", "categories", "videos"):
        load({**full(), table: value})


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_any_mpp_and_class_map_raise_nothing_but_manifest_errors(value):
    if value is not None:
        load(full(), mpp=value)
    if isinstance(value, dict):
        load(full(), class_map=value)
    load(full(), class_map={"tissue": value})


def test_the_sample_itself_is_accepted():
    assert load(full()) is not None
    assert len(PATHS) > 150
