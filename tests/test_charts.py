"""The report's charts and pictures: well-formed SVG, sensible ticks, odd inputs, exact raster helpers."""

import base64
import io
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from simvq_jax.drawing.axes import linear_ticks, log_ticks, number
from simvq_jax.drawing.charts import STYLE, line_chart, spectrum_chart, usage_chart
from simvq_jax.drawing.pictures import TOKEN, USED, picture_grid, png_data_uri, project, scatter_png

NAN = float("nan")
SVG = "{http://www.w3.org/2000/svg}"


def parse(svg: str) -> ElementTree.Element:
    root = ElementTree.fromstring(svg)
    assert root.tag == f"{SVG}svg"
    assert "nan" not in svg.lower() and "inf" not in svg.lower()
    assert set(re.findall(r"var\((--[\w-]+)\)", svg)) <= set(re.findall(r"(--[\w-]+):", STYLE))
    return root


def texts(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in parse(svg).iter(f"{SVG}text")]


def paths(svg: str) -> list[str]:
    return [path.attrib["d"] for path in parse(svg).iter(f"{SVG}path")]


def test_line_chart_names_its_series_and_their_last_values():
    svg = line_chart({"train/a": ([0, 1, 2], [1, 2, NAN]), "eval/a": ([0, 2], [3, 4.25])}, "A < B & C", "x", "y")
    assert {"A < B & C", "x", "y", "train/a 2", "eval/a 4.25"} <= set(texts(svg))
    assert svg.count('class="curve"') == 2


def test_a_missing_value_lifts_the_pen_and_a_lone_point_is_a_dot():
    x = np.arange(100)
    y = np.sin(x)
    y[[49, 51]] = NAN
    svg = line_chart({"a": (x, y)}, "t", "", "")
    (path,) = paths(svg)
    assert path.count("M") == 3
    assert svg.count("<circle") == 1


@pytest.mark.parametrize("log_y", [False, True])
@pytest.mark.parametrize(
    "values",
    [
        [],
        [NAN],
        [np.inf, 1.0],
        [7.0],
        [0.0],
        [2e-4, 2e-4],
        [-1.0, 1.0],
        [1e-30, 1e30],
        [5e9, 6e9],
        [1.0, 1 + 1e-12],
    ],
)
def test_odd_series_give_a_well_formed_chart(values: list[float], log_y: bool):
    parse(line_chart({"a": (range(len(values)), values)}, "t", "x", "y", log_y=log_y))


def test_no_series_says_so():
    assert "no values" in texts(line_chart({}, "t", "x", "y"))


def test_a_long_curve_is_thinned_and_keeps_its_spike():
    y = np.zeros(100_000)
    y[54_321] = 1.0
    svg = line_chart({"a": (np.arange(y.size), y)}, "t", "", "")
    (path,) = paths(svg)
    heights = [float(height) for height in re.findall(r",([\d.]+)", path)]
    assert len(heights) < 1500
    assert min(heights) < 100 and sum(height < 100 for height in heights) == 1


def test_many_series_wrap_the_legend():
    svg = line_chart({f"train/quite_a_long_name_{i}": ([0, 1], [i, 1]) for i in range(9)}, "t", "", "")
    legend = [text for text in parse(svg).iter(f"{SVG}text") if "long_name" in "".join(text.itertext())]
    assert len({text.attrib["y"] for text in legend}) > 2
    assert all(float(text.attrib["x"]) < 500 for text in legend)


def test_ticks_are_round_and_within_the_range():
    assert linear_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert linear_ticks(103.0, 598.0) == [200, 300, 400, 500]
    assert log_ticks(0.5, 20_000.0) == [1, 10, 100, 1000, 10_000]
    assert log_ticks(0.9, 11.0) == [1, 2, 5, 10]
    assert len(log_ticks(1e-30, 1e30)) <= 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (8192, "8,192"),
        (27.3123, "27.31"),
        (3e-5, "3·10⁻⁵"),
        (0, "0"),
        (1e12, "10¹²"),
        (12345.6, "12,346"),
        (-2, "-2"),
    ],
)
def test_numbers_read_well(value: float, text: str):
    assert number(value).removeprefix("1·") == text


def test_usage_chart_counts_dead_codes():
    counts = np.array([0, 5, 0, 100, 1, 0, 0, 1])
    svg = usage_chart(counts, "usage")
    assert {"used codes 4", "dead codes 4 (50.0%)", "even use 13.38 tokens a code"} <= set(texts(svg))


@pytest.mark.parametrize("counts", [np.zeros(16, np.int64), np.ones(1, np.int64), np.arange(300_000)])
def test_usage_chart_of_extreme_counts(counts: np.ndarray):
    svg = usage_chart(counts, "usage")
    parse(svg)
    assert len(svg) < 40_000


def test_spectrum_chart_runs_from_light_to_dark_with_both_ends():
    spectra = {step: np.linspace(2, 0.1, 16) for step in range(0, 1000, 50)}
    svg = spectrum_chart(spectra, "spectrum", "value")
    colors = re.findall(r'class="curve" d="[^"]+" stroke="var\((--ramp-\d)\)"', svg)
    assert colors == [f"--ramp-{i}" for i in range(8)]
    assert {"step 0", "step 950"} <= set(texts(svg))


def test_spectrum_chart_of_one_step_is_dark():
    assert "--ramp-7" in spectrum_chart({0: [1.0, 0.0]}, "spectrum", "value")


def test_png_data_uri_round_trips(rng_picture: np.ndarray):
    head, data = png_data_uri(rng_picture).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), rng_picture)


def test_picture_grid_places_rows_with_clear_gaps(rng_picture: np.ndarray):
    grid = picture_grid([[rng_picture, rng_picture], [255 - rng_picture]], gap=3)
    assert grid.shape == (2 * 8 + 3, 2 * 6 + 3, 4)
    np.testing.assert_array_equal(grid[:8, 9:, :3], rng_picture)
    np.testing.assert_array_equal(grid[11:, :6, :3], 255 - rng_picture)
    assert grid[8:11].max() == 0 and grid[11:, 9:].max() == 0


def test_project_finds_the_plane_of_the_tokens():
    rng = np.random.default_rng(0)
    plane = rng.normal(size=(500, 2)) * [5, 2]
    basis = np.linalg.qr(rng.normal(size=(8, 2)))[0]
    tokens = (plane @ basis.T + 3).astype(np.float32)
    tokens_xy, codes_xy, share = project(tokens, tokens[:10])
    assert share == pytest.approx(1.0)
    np.testing.assert_allclose(tokens_xy[:10], codes_xy, atol=1e-5)
    distances = np.linalg.norm(tokens_xy[:9] - tokens_xy[1:10], axis=1)
    np.testing.assert_allclose(distances, np.linalg.norm(plane[:9] - plane[1:10], axis=1), rtol=1e-4)


@pytest.mark.parametrize(("count", "dim"), [(0, 4), (5, 1), (5, 2)])
def test_project_takes_few_dimensions_and_no_tokens(count: int, dim: int):
    tokens_xy, codes_xy, _ = project(np.ones((count, dim), np.float32), np.zeros((3, dim), np.float32))
    assert tokens_xy.shape == (count, 2) and codes_xy.shape == (3, 2)
    assert np.isfinite(codes_xy).all()


def test_scatter_shows_codes_over_tokens_on_a_clear_ground():
    tokens = np.array([[0.0, 0.0], [1.0, 1.0]])
    picture = scatter_png(np.array([[0.0, 0.0]]), tokens, np.array([True]))
    assert picture.dtype == np.uint8 and picture.shape[2] == 4
    colors = picture[picture[..., 3] > 100][:, :3].astype(int)
    assert any(np.abs(colors - np.array([TOKEN])).sum(axis=1) < 5)
    assert any(np.abs(colors - np.array([USED])).sum(axis=1) < 80)
    assert np.median(picture[..., 3]) == 0


def test_scatter_of_nothing_is_clear():
    empty = np.zeros((0, 2))
    assert scatter_png(empty, empty, np.zeros(0, bool)).max() == 0


@pytest.fixture
def rng_picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
