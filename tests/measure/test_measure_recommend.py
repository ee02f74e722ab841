"""What is recommended, for figures that were made up."""

from __future__ import annotations

import shlex

import pytest

from slidesampler.measure import (
    CacheVariant,
    Recommendation,
    Spread,
    VariantMeasurement,
    expected_rate,
    recommend,
)
from slidesampler.measure.recommend import build_words

IN_PLACE, AUTO, NPY = CacheVariant("in-place"), CacheVariant("auto"), CacheVariant("npy")
RAW, ZSTD = CacheVariant("cog", "none", None, 256), CacheVariant("cog", "zstd", None, 128)
JPEG = CacheVariant("cog", "jpeg", 90, 256)
WEBP_EXACT = CacheVariant("cog", "webp", 100, 256)


def made_up(
    variant: CacheVariant, gib: float, warm: float, cold: float | None = None, status: str = "measured"
) -> VariantMeasurement:
    """A row of a variant whose cache has so many GiB and gives so many windows a second by all threads."""
    return VariantMeasurement(
        variant,
        status,  # type: ignore[arg-type]
        total_bytes=gib * 2**30,
        cold_all=None if cold is None else Spread.of([cold]),
        warm_all=Spread.of([warm]) if status == "measured" else None,
    )


def advice(*rows: VariantMeasurement, free: float = 1000, memory: float = 1, source: float = 50, **more: bool):
    """Recommendation where so many GiB are free, and there is hardly any memory: cold figures count."""
    return recommend(
        rows,
        free_bytes=free * 2**30,
        memory_bytes=memory * 2**30,
        source_bytes=source * 2**30,
        command=["slidesampler", "build", "m.json"],
        **more,
    )


def names(found: Recommendation) -> dict[str, str]:
    return {item.when: item.variant.name for item in found.alternatives}


def test_expected_rate_mixes_warm_and_cold_by_what_memory_holds() -> None:
    row = made_up(ZSTD, 100, warm=1000, cold=100)
    # 20 GB of memory, half for the page cache: 10 of 100 GB are warm.
    assert expected_rate(row, 100e9, 20e9) == pytest.approx(1 / (0.1 / 1000 + 0.9 / 100))
    assert expected_rate(row, 100e9, 200e9) == 1000
    assert expected_rate(row, 100e9, 0) == 100
    assert expected_rate(made_up(ZSTD, 100, warm=1000), 100e9, 0) == 1000
    assert expected_rate(row, 0, 0) == 1000


def test_the_fastest_lossless_one_that_fits() -> None:
    rows = (
        made_up(IN_PLACE, 0, 50, 40),
        made_up(NPY, 400, 3000, 600),
        made_up(ZSTD, 150, 900, 400),
        made_up(JPEG, 30, 1000, 900),
    )
    assert advice(*rows).variant == NPY
    # 90 % of the disk may be filled.
    assert advice(*rows, free=445).variant == NPY
    found = advice(*rows, free=444)
    assert found.variant == ZSTD
    assert any(reason.startswith("npy: would need more") for reason in found.reasons)
    assert advice(*rows, free=100).variant == IN_PLACE


def test_what_counts_is_cold_or_warm_by_the_memory() -> None:
    rows = made_up(NPY, 400, warm=3000, cold=300), made_up(ZSTD, 150, warm=900, cold=500)
    assert advice(*rows, memory=1).variant == ZSTD
    assert advice(*rows, memory=2000).variant == NPY
    # Half of 300 GB hold all of the one and 3/8 of the other: 1 / (0.375 / 3000 + 0.625 / 300) = 453.
    found = advice(*rows, memory=300)
    assert found.variant == ZSTD
    assert found.windows_per_s == 900
    assert "holds all that is read" in " ".join(found.reasons)


def test_about_as_fast_is_as_good_and_then_the_smaller_one_is_taken() -> None:
    assert advice(made_up(RAW, 400, 1000, 500), made_up(ZSTD, 150, 900, 451)).variant == ZSTD
    assert advice(made_up(RAW, 400, 1000, 500), made_up(ZSTD, 150, 900, 449)).variant == RAW
    assert advice(made_up(AUTO, 0.1, 900, 490), made_up(ZSTD, 150, 1000, 500)).variant == AUTO


def test_loss_is_never_chosen_and_told_of() -> None:
    found = advice(made_up(ZSTD, 150, 900, 400), made_up(JPEG, 15, 5000, 4000))
    assert found.variant == ZSTD
    (other,) = found.alternatives
    assert (other.when, other.variant) == ("If loss is acceptable", JPEG)
    assert "10% of the size (about 15.0 GiB)" in other.text
    assert "10 times the windows a second" in other.text
    assert "Pixels change" in other.text
    assert shlex.split(other.command)[-6:] == ["--codec", "jpeg", "--quality", "90", "--tile", "256"]
    assert advice(made_up(JPEG, 15, 5000)).variant is None
    assert advice(made_up(WEBP_EXACT, 15, 5000)).variant == WEBP_EXACT


def test_a_much_smaller_one_is_told_of() -> None:
    rows = made_up(NPY, 400, 3000, 600), made_up(RAW, 390, 1000, 500), made_up(ZSTD, 150, 900, 300)
    found = advice(*rows)
    assert names(found) == {"Smaller without loss": ZSTD.name}
    assert "38% of the size" in found.alternatives[0].text
    assert "0.5 times" in found.alternatives[0].text


def test_nothing_fits_nothing_works() -> None:
    found = advice(made_up(ZSTD, 150, 900, 400), made_up(NPY, 400, 900, 400), free=100)
    assert found.variant is None
    assert "cog zstd 128, needs about 150.0 GiB" in found.reasons[0]
    assert advice(made_up(ZSTD, 0, 0, status="failed")).variant is None
    assert advice().command == ""


def test_failed_rows_are_passed_over() -> None:
    assert advice(made_up(NPY, 1, 0, status="skipped"), made_up(ZSTD, 150, 900, 400)).variant == ZSTD


def test_cold_that_was_not_measured_is_said() -> None:
    assert "not measured" in " ".join(advice(made_up(ZSTD, 150, 900)).reasons)


@pytest.mark.parametrize(
    ("variant", "words"),
    [
        (NPY, "--backend npy"),
        (AUTO, "--backend auto"),
        (ZSTD, "--backend cog --codec zstd --tile 128"),
        (JPEG, "--backend cog --codec jpeg --quality 90 --tile 256"),
    ],
)
def test_commands(variant: CacheVariant, words: str) -> None:
    assert build_words(variant, ["x", "a b"]) == f"x 'a b' {words}"
    # Sources that are COGs would stay where they are.
    forced = " --force" if variant.backend == "cog" else ""
    assert build_words(variant, ["x"], True) == f"x {words}{forced}"
    assert build_words(IN_PLACE, ["x"]) == ""
