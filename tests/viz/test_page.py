"The page in points: columns between margins, a height that follows the cursor, chips and lines that stay inside."

import pytest
from matplotlib import pyplot as plt
from matplotlib import rcParams

from mvl_bench.viz.base import DARK, LIGHT, theme
from mvl_bench.viz.page import Page, chip_width, place_chips, text_width, wrap_text

WORDS = "a small orange heart above a big purple circle on a white ground".split()


@pytest.mark.parametrize("count, gap, margin", [(1, 0, 14), (4, 16, 14), (6, 10, 1)])
def test_columns_fill_the_width_between_the_margins(count, gap, margin):
    with Page.new(range(count), 100, gap, margin) as page:
        page.advance(50)
    width = page.figure.get_figwidth() * 72
    assert page.ax.get_xlim() == (0, pytest.approx(width))
    assert page.left == margin and page.right == pytest.approx(width - margin)
    lefts = list(page.lefts.values())
    assert all(b - a == 100 + gap for a, b in zip(lefts, lefts[1:]))


def test_the_page_ends_at_the_cursor_and_a_point_is_a_point():
    with Page.new(["one"], 200) as page:
        page.advance(30)
        page.rule()
        page.write(page.left, 12, "text on a baseline")
        page.advance(40)
    assert page.figure.get_figheight() * 72 == pytest.approx(70) and page.ax.get_ylim() == (70, 0)
    pixels = page.ax.transData.transform([(0, 0), (72, 72)])
    assert abs(pixels[1] - pixels[0]) == pytest.approx([page.figure.dpi] * 2)
    assert (
        page.ax.lines[0].get_ydata().tolist() == [30, 30]
        and page.ax.texts[0].get_position()[1] == 42
    )


def test_nothing_stands_outside_of_the_page():
    with Page.new(["one"], 150) as page:
        style = dict(facecolor="none", edgecolor="black", colour="black")
        page.advance(8 + page.chips(page.left, 8, [(word, style) for word in WORDS * 3], 150))
        page.advance(page.paragraph(page.left, 0, " ".join(WORDS)) + 8)
    page.figure.draw_without_rendering()
    inside = page.figure.bbox
    for part in (*page.ax.texts, *page.ax.patches):
        bounds = part.get_window_extent()
        assert inside.contains(bounds.x0, bounds.y0) and inside.contains(bounds.x1, bounds.y1)


@pytest.mark.parametrize("width", [30, 75, 300])
def test_chips_are_in_order_and_do_not_overlap(width):
    joined = [1, 5]
    corners = place_chips(WORDS, width, joined)
    for i, ((x, y), (after, below)) in enumerate(zip(corners, corners[1:]), 1):
        end = x + chip_width(WORDS[i - 1])
        if below == y:
            assert after == pytest.approx(end + (1.5 if i in joined else 4.5))
            assert after + chip_width(WORDS[i]) <= width
        else:
            assert (after, below) == (0, y + 23)
            assert end + 1.5 + chip_width(WORDS[i]) > width
    assert place_chips([], width) == []


def test_lines_are_cut_after_the_limit():
    lines = wrap_text(" ".join(WORDS), 90, 8, limit=3)
    assert len(lines) == 3 and lines[-1].endswith("…")
    assert all(text_width(line, 8) <= 90 for line in lines)
    assert wrap_text(" ".join(WORDS), 900, 8) == [" ".join(WORDS)] and wrap_text("", 90, 8) == [""]


def test_a_page_takes_the_theme_around_it_and_leaves_no_settings():
    before = dict(rcParams)
    with theme(True), Page.new(["one"], 100) as page:
        page.advance(10)
        assert page.palette == DARK
    with pytest.raises(ZeroDivisionError), Page.new(["one"], 100, dark=False) as page:
        assert page.palette == LIGHT
        page.advance(1 / 0)
    assert dict(rcParams) == before and not plt.get_fignums()


def test_a_page_in_axes_follows_their_figure():
    with theme(True):
        figure = plt.figure(figsize=(3, 1))
    part = figure.subfigures(1, 2)[1]  # has no ground of its own
    with Page.on(part.add_axes((0, 0, 1, 1)), (1, 1), margin=4) as page:
        assert page.palette == DARK
    assert page.column_width == pytest.approx(1.5 * 72 - 8) and page.left == 4
    plt.close(figure)
