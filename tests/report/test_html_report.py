"""The page: whole, self-contained, escaped, and with the numbers that brute force counts."""

import base64
import re
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from slidesampler.geometry import Window
from slidesampler.report import sheets, write_report
from slidesampler.report.figures import Z_LIMIT
from slidesampler.report.findings import beyond_chance, findings
from slidesampler.report.page import escape
from slidesampler.report.png import COLORS, to_png, to_small_png
from slidesampler.report.weights import weights_program
from slidesampler.sampling.statistics import SampleSummary, TryCounts
from slidesampler.target import Target

VOID = {"meta", "img", "br", "hr", "input", "link"}


class Page(HTMLParser):
    """The document as tables, attributes and text; fails where an element is not closed."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.open, self.attrs, self.tables, self.words = [], [], {}, []
        self._rows = self._cell = self._caption = None
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.attrs += [(tag, name, value) for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self._rows, self._caption = [], ""
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._cell = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self._caption] = self._rows
        elif tag in ("td", "th"):
            self._rows[-1].append(self._cell)
            self._cell = None

    def handle_data(self, data):
        if self._cell is not None:
            self._cell += data
        elif self.open and self.open[-1] == "caption":
            self._caption += data
        if not {"style", "script"} & set(self.open):
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def table(self, begins):
        (rows,) = [rows for caption, rows in self.tables.items() if caption.startswith(begins)]
        head, *body = rows
        assert all(len(row) == len(head) for row in body)
        return [dict(zip(head, row, strict=True)) for row in body]


def written(folder, sampler, summary, targets, **options):
    files = write_report(sampler, summary, targets, folder, **options)
    return files, Page(files.page.read_text(encoding="utf-8"))


@pytest.fixture
def sampler(brute):
    return brute.sampler()


@pytest.fixture(autouse=True)
def small_sheets(monkeypatch):
    """Drawing dozens of panels is most of the time."""
    monkeypatch.setattr(sheets, "SHOWN", 3)


@pytest.fixture(scope="module")
def usual(tmp_path_factory, brute):
    """A report of 60 windows on two slides: its targets, its files and its page."""
    sampler = brute.sampler(prefix="usual")
    targets = brute.targets(sampler)
    tries = [TryCounts("negative", 40, 60, {"foreground": 20})]
    folder = tmp_path_factory.mktemp("usual")
    files, page = written(folder, sampler, brute.summary(sampler, targets, tries=tries), targets)
    return sampler, targets, files, page


def test_numbers_are_those_that_were_counted(usual):
    sampler, targets, _files, page = usual
    for row in page.table("Windows of each of 2 slides"):
        image_id = int(row["image id"])
        mine = [target for target in targets if target.image_id == image_id]
        assert row["slide"] == sampler.image_record(image_id).name
        assert int(row["windows"]) == len(mine)
        assert row["served"] == f"{100 * len(mine) / len(targets):.1f} %"
        for kind in ("positive", "negative"):
            assert int(row[kind]) == sum(target.kind == kind for target in mine)
        for category, name in ((1, "tumour"), (2, "necrosis")):
            assert int(row[f"for {name}"]) == sum(target.category_id == category for target in mine)
    kinds = {row["kind"]: row for row in page.table("Windows of each kind")}
    assert {name: int(row["windows"]) for name, row in kinds.items()} == {"positive": 20, "negative": 40}
    classes = {row["class"]: row for row in page.table("Windows of each class")}
    assert {name: int(row["windows chosen for it"]) for name, row in classes.items()} == {
        name: sum(target.category_id == number for target in targets)
        for number, name in ((1, "tumour"), (2, "necrosis"))
    }
    assert f"{len(targets)} windows on 2 of 2 slides" in page.text


def test_asked_for_is_compared_with_served(tmp_path, brute, sampler):
    targets = brute.targets(sampler, 600)
    asked = {"positive": 0.9, "negative": 0.1, "tumour": 0.5, "necrosis": 0.5, 1: 0.5, 2: 0.5}
    _, page = written(tmp_path, sampler, brute.summary(sampler, targets, asked), targets)
    positive, negative = sorted(page.table("Windows of each kind"), key=lambda row: row["kind"])[::-1]
    assert (positive["asked for"], positive["served"]) == ("90.0 %", "33.3 %")
    assert positive["difference"] == "−56.7 points, beyond chance"
    assert negative["difference"] == "+56.7 points, beyond chance"
    assert all("beyond" not in row["difference"] for row in page.table("Windows of each class"))
    assert "Windows of kind positive: 33.3% served, 90.0% asked for." in page.text


def test_the_page_needs_nothing_else(usual):
    _sampler, _targets, files, page = usual
    tags = {tag for tag, _, _ in page.attrs}
    assert not tags & {"script", "link", "iframe", "object", "embed", "base"}
    for tag, name, value in page.attrs:
        assert not name.startswith("on")
        if name in ("src", "srcset", "data", "poster", "action", "background"):
            assert (tag, name) == ("img", "src")
            assert value.startswith("data:image/png;base64,")
        if name == "href":
            assert value.startswith("#")
    text = files.page.read_text(encoding="utf-8")
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text
    assert "@import" not in text
    assert str(files.page.parent) not in text
    assert "file:" not in text


def test_every_link_has_its_place(usual):
    _sampler, _targets, _files, page = usual
    ids = [value for _, name, value in page.attrs if name == "id"]
    assert len(set(ids)) == len(ids)
    links = [value[1:] for _, name, value in page.attrs if name in ("href",)]
    links += [value for _, name, value in page.attrs if name == "aria-labelledby"]
    assert len(links) >= 12
    assert set(links) <= set(ids)


def test_it_can_be_read_aloud(usual):
    _sampler, _targets, _files, page = usual
    assert ("html", "lang", "en") in page.attrs
    alts = [value for tag, name, value in page.attrs if (tag, name) == ("img", "alt")]
    assert len(alts) == sum(tag == "img" and name == "src" for tag, name, _ in page.attrs)
    assert all(len(alt) > 20 for alt in alts)
    scopes = [value for tag, name, value in page.attrs if (tag, name) == ("th", "scope")]
    assert {"col", "row"} == set(scopes)
    assert all(caption for caption in page.tables)


def luminance(color):
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_contrast_is_enough_in_light_and_dark(tmp_path, brute, sampler):
    files, _ = written(tmp_path, sampler, brute.summary(sampler, []), [])
    style = re.search(r"<style>(.*?)</style>", files.page.read_text(), re.DOTALL)[1]
    themes = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    assert len(themes) == 3
    for theme in themes[:2]:
        colors = dict(re.findall(r"--(\w+): (#\w{6})", theme))
        for name in ("ink", "soft", "mark", "link"):
            pair = sorted((luminance(colors[name]), luminance(colors["paper"])))
            # WCAG 2.1, 1.4.3: 4.5 to 1 for text.
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (theme, name)


def test_figures_are_files_and_the_same_as_in_the_page(usual):
    _, _, files, page = usual
    names = ["kinds", "classes", "slides", "tries", "coverage-1", "coverage-2", "positives", "negatives"]
    assert [path.name for path in files.figures] == [f"{name}.png" for name in names]
    assert sorted(path.name for path in files.page.parent.iterdir()) == sorted(
        ["report.html", *(f"{name}.png" for name in names)]
    )
    sources = [value for tag, name, value in page.attrs if (tag, name) == ("img", "src")]
    embedded = [base64.b64decode(source.partition(",")[2]) for source in sources]
    assert embedded == [path.read_bytes() for path in files.figures]
    for png in embedded:
        picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
        assert min(picture.shape[:2]) > 50
        assert picture.std() > 1
    sizes = [(int(dict(pairs)["width"]), int(dict(pairs)["height"])) for pairs in _images(page)]
    assert sizes == [
        cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR).shape[1::-1] for png in embedded
    ]


def _images(page):
    found = [(name, value) for tag, name, value in page.attrs if tag == "img"]
    return [found[at : at + 4] for at in range(0, len(found), 4)]


HOSTILE = "<script>alert('1')</script>\"&$\\frac{1}$_^\x07\n病理"


def test_names_are_text_and_nothing_else(tmp_path, brute):
    sampler = brute.sampler((HOSTILE, "_b"), (f"c{HOSTILE}", "_d"))
    targets = [
        target.with_fields(kind=f"k{HOSTILE}") if at == 5 else target
        for at, target in enumerate(brute.targets(sampler))
    ]
    tries = [TryCounts(HOSTILE, 3, 5, {HOSTILE: 2}, exhausted=1)]
    files, page = written(
        tmp_path, sampler, brute.summary(sampler, targets, tries=tries), targets, title=HOSTILE, origin=HOSTILE
    )
    assert "script" not in {tag for tag, _, _ in page.attrs}
    assert "<script" not in files.page.read_text(encoding="utf-8")
    assert "\x07" not in files.page.read_text(encoding="utf-8")
    shown = HOSTILE.replace("\x07", "\N{REPLACEMENT CHARACTER}")
    slides = page.table("Windows of each of 2 slides")
    assert slides[0]["slide"] == shown
    assert {row["class"] for row in page.table("Windows of each class")} == {f"c{shown}", "_d"}
    assert f"k{shown}" in {row["kind"] for row in page.table("Windows of each kind")}
    assert page.table("Tries by kind")[0][f"refused: {shown}"] == "2"


def test_half_a_character_is_no_reason_to_fail(tmp_path, brute):
    sampler = brute.sampler(("\ud800", "b"))
    targets = brute.targets(sampler)
    _, page = written(tmp_path, sampler, brute.summary(sampler, targets), targets)
    assert page.table("Windows of each of 2 slides")[0]["slide"] == "\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize("text", ["<b>", '"quoted"', "it's", "a & b", "\x00\x1b[31m", "‮gpj.exe", "\ud834"])
def test_escaped_text_comes_back_as_text(text):
    page = Page(f'<p title="{escape(text)}">{escape(text)}</p>')
    ((_, _, title),) = page.attrs
    assert page.words == [title]
    assert "<" not in escape(text).replace("&lt;", "")
    printable = "".join(char for char in text if char.isprintable())
    assert title.replace("\N{REPLACEMENT CHARACTER}", "") == printable


def test_no_windows(tmp_path, brute, sampler):
    files, page = written(tmp_path, sampler, brute.summary(sampler, []), [])
    assert "There are no windows" in page.text
    assert len(page.table("Windows of each of 2 slides")) == 2
    assert {path.name for path in files.figures} == {"slides.png"}


def test_no_slides_and_no_classes(tmp_path, brute):
    sampler = brute.sampler(categories=())
    _, page = written(tmp_path, sampler, SampleSummary(0, (), (), (), (), 0), [])
    assert "The manifest has no classes." in page.text
    assert "The manifest has no images." in page.text


def test_one_slide_one_window(tmp_path, brute):
    sampler = brute.sampler(("only",))
    targets = [Target(image_id=1, window=Window(-20, 500, 200, 200))]
    files, page = written(tmp_path, sampler, brute.summary(sampler, targets), targets)
    assert [path.name for path in files.figures] == [
        "kinds.png",
        "slides.png",
        "coverage-1.png",
        "negatives.png",
    ]
    assert page.table("Windows of each kind")[0]["kind"] == "(none)"


def test_many_slides_are_in_the_table_and_few_are_drawn(tmp_path, brute):
    names = [f"slide-{number:03d}" for number in range(60)]
    sampler = brute.sampler(names, size=(130, 150), prefix="many")
    targets = brute.targets(sampler, 300, 64)
    files, page = written(tmp_path, sampler, brute.summary(sampler, targets), targets, max_slides=3)
    assert [row["slide"] for row in page.table("Windows of each of 60 slides")] == names
    maps = [path.name for path in files.figures if path.name.startswith("coverage-")]
    assert len(maps) == 3
    counts = {image_id: sum(t.image_id == image_id for t in targets) for image_id in sampler.image_ids}
    drawn = [int(re.search(r"\d+", name)[0]) for name in maps]
    assert drawn == sorted(sorted(counts, key=lambda one: (-counts[one], one))[:3])
    seen = sum(count > 0 for count in counts.values())
    assert f"Drawn are the 3 slides with the most windows, of {seen} that have any" in page.text
    assert "The 40 slides with the most windows; the table has all 60." in page.text
    assert files.page.stat().st_size < 3_000_000


def test_a_second_report_leaves_no_picture_of_the_first(tmp_path, brute, sampler):
    targets = brute.targets(sampler)
    (tmp_path / "mine.txt").write_text("kept")
    written(tmp_path, sampler, brute.summary(sampler, targets), targets)
    files, _ = written(tmp_path, sampler, brute.summary(sampler, []), [])
    assert {path.name for path in tmp_path.iterdir()} == {
        "mine.txt",
        "report.html",
        *(path.name for path in files.figures),
    }


def test_the_same_windows_give_the_same_bytes(tmp_path, brute, sampler):
    targets = brute.targets(sampler)
    pages = [
        written(tmp_path / name, sampler, brute.summary(sampler, targets), targets)[0].page.read_bytes()
        for name in ("a", "b")
    ]
    assert pages[0] == pages[1]


def test_a_slide_that_cannot_be_read_is_named(tmp_path, brute, sampler, monkeypatch):
    targets = brute.targets(sampler)
    summary = brute.summary(sampler, targets)
    real = type(sampler).load_sample

    def fail(self, target, *arguments, **options):
        if Target.coerce(target).image_id == 2:
            raise OSError("the disk is gone")
        return real(self, target, *arguments, **options)

    monkeypatch.setattr(type(sampler), "load_sample", fail)
    files, page = written(tmp_path, sampler, summary, targets)
    assert any("image 2" in line and "the disk is gone" in line for line in files.failed)
    assert "The thumbnail of image 2 could not be read: the disk is gone" in page.text
    assert "coverage-2.png" in {path.name for path in files.figures}


def test_windows_without_a_kind_go_by_their_mask(tmp_path, brute, sampler):
    # Boxes of the classes: 40 to 140 and 190 to 290 across, 60 to 180 down.
    inside = Target(image_id=1, window=Window(80, 60, 50, 50), kind="grid")
    outside = Target(image_id=1, window=Window(300, 400, 50, 50), kind="grid")
    for targets, names in (
        ([inside], {"positives.png"}),
        ([outside], {"negatives.png"}),
        ([inside, outside], {"positives.png", "negatives.png"}),
    ):
        files, _ = written(tmp_path, sampler, brute.summary(sampler, targets), targets)
        sheets = {path.name for path in files.figures} & {"positives.png", "negatives.png"}
        assert sheets == names


def test_large_windows_are_read_small(tmp_path, brute, sampler, monkeypatch):
    sizes = []
    real = type(sampler).load_sample

    def note(self, target, *arguments, **options):
        sample = real(self, target, *arguments, **options)
        sizes.append(sample.image.shape[:2])
        return sample

    monkeypatch.setattr(type(sampler), "load_sample", note)
    targets = [Target(image_id=1, window=Window(0, 0, 3000, 5000), kind="positive")]
    written(tmp_path, sampler, brute.summary(sampler, targets), targets)
    assert max(max(size) for size in sizes) <= 512


def test_sequences_are_shown_frame_by_frame(tmp_path, brute, sampler):
    targets = [Target(image_ids=(1, 2), window=Window(0, 0, 64, 64), kind="positive")]
    flat = [targets[0].with_fields(image_id=one, image_ids=None) for one in (1, 2)]
    files, _ = written(tmp_path, sampler, brute.summary(sampler, flat), targets)
    assert "positives.png" in {path.name for path in files.figures}


def test_tries_are_told(tmp_path, brute, sampler):
    targets = brute.targets(sampler)
    tries = [
        TryCounts("positive", 20, 20, {}),
        TryCounts("negative", 40, 130, {"foreground": 60, "tissue": 30}, exhausted=2),
    ]
    _, page = written(tmp_path, sampler, brute.summary(sampler, targets, tries=tries), targets)
    positive, negative = page.table("Tries by kind")
    assert negative["tries a window"] == "3.25"
    assert (negative["refused: foreground"], negative["refused: tissue"]) == ("60", "30")
    assert (positive["refused: foreground"], positive["out of tries"]) == ("0", "0")
    assert "2 of 40 windows of kind negative ran out of tries." in page.text


def test_regions_are_listed(usual):
    _sampler, _targets, _files, page = usual
    row = page.table("Under- and over-sampled regions")[0]
    assert (row["where"], row["height"], row["expected"]) == ("under-sampled", "64", "1")
    assert f"the colours end at {Z_LIMIT:g}" in page.text


def test_weights_are_a_program(brute):
    sampler = brute.sampler((HOSTILE, "b"), (HOSTILE, "necrosis"))
    program = weights_program(brute.summary(sampler, brute.targets(sampler)))
    names = {}
    exec(compile(program, "weights", "exec"), names)
    assert names["class_weights"] == {HOSTILE: 0.5, "necrosis": 0.5}
    assert names["slide_weights"] == {1: 0.5, 2: 0.5}


@pytest.mark.parametrize(
    ("served", "asked", "n", "far"),
    [
        (0.5, 0.5, 100, False),
        (0.69, 0.5, 100, False),  # 3.8 standard errors of 0.05
        (0.71, 0.5, 100, True),  # 4.2
        (0.29, 0.5, 100, True),
        (0.01, 0.0, 100, False),  # one window
        (0.03, 0.0, 100, True),
        (0.0, 0.5, 0, False),
    ],
)
def test_chance(served, asked, n, far):
    assert beyond_chance(served, asked, n) is far


def test_nothing_stands_out(brute, sampler):
    targets = brute.targets(sampler, 600)
    summary = brute.summary(sampler, targets, {"positive": 1 / 3, "negative": 2 / 3, 1: 0.5, 2: 0.5})
    assert findings(summary) == []


def test_slides_without_windows_stand_out(brute):
    sampler = brute.sampler([f"s{number}" for number in range(8)], prefix="unseen")
    targets = [target.with_fields(image_id=1) for target in brute.targets(sampler)]
    (line,) = findings(brute.summary(sampler, targets))
    assert line == "7 of 8 slides have no window: s1, s2, s3, s4, s5 and 2 more."


def test_bad_arguments(tmp_path, brute, sampler):
    with pytest.raises(ValueError, match="max_slides"):
        write_report(sampler, brute.summary(sampler, []), [], tmp_path, max_slides=-1)
    assert list(tmp_path.iterdir()) == []


def test_colours_of_the_legend_are_kept(tmp_path):
    figure = Figure(figsize=(4, 4), dpi=100, facecolor="white")
    axes = figure.add_axes((0, 0, 1, 0.9))
    axes.imshow(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8))
    axes.axis("off")
    figure.patches.append(Rectangle((0.01, 0.92), 0.05, 0.05, color="#00e5ff", transform=figure.transFigure))
    png = to_small_png(figure, ["#ffffff", "#00e5ff"])
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) <= COLORS
    assert picture[25, 14].tolist() == [0, 0xE5, 0xFF]
    assert picture[10, 300].tolist() == [255, 255, 255]
    # The others are near what they were.
    whole = cv2.imdecode(np.frombuffer(to_png(figure), np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.abs(whole.astype(int) - picture).mean() < 16
