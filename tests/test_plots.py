"""Pictures: what is drawn is what was predicted, and nothing global is touched."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib import image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from neglog import Fit, datasets, mle, models, predict
from neglog.candidates import set_up
from neglog.errors import DataError
from neglog.formula import Learned, learn
from neglog.plots import check_format, picture, picture_of_table, write
from neglog.tables import read_table

DATA = Path(__file__).parent / "data"


def fitted(learned: Learned) -> dict[str, Fit]:
    fits = {}
    for name in ("gaussian", "laplace", "heteroscedastic"):
        model, x = set_up(name, learned.design, learned.table)
        fits[name] = mle(model, x, learned.design.y(learned.table))
    return fits


@pytest.fixture(scope="module")
def engel() -> Learned:
    return learn("food_expenditure ~ income", datasets.load("engel"))


@pytest.fixture(scope="module")
def fits(engel: Learned) -> dict[str, Fit]:
    return fitted(engel)


def panels(figure: Figure) -> list[Axes]:
    return [axes for axes in figure.axes if axes.get_visible()]


def band(axes: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """The lower and upper edge of a filled band."""
    (filled,) = (found for found in axes.collections if found.get_label() == label)
    vertices = filled.get_paths()[0].vertices
    half = (len(vertices) - 1) // 2
    return vertices[1:half, 1], vertices[half + 1 : -1, 1][::-1]


def test_one_input_has_the_rows_the_median_and_its_bands(engel: Learned, fits: dict[str, Fit]) -> None:
    figure = picture_of_table(fits, engel.design, engel.table)
    assert [axes.get_title("left") for axes in panels(figure)] == list(fits)
    grid = np.linspace(engel.table["income"].min(), engel.table["income"].max(), 200)
    for axes, fit in zip(panels(figure), fits.values(), strict=True):
        assert axes.get_title("right") == f"NLL {fit.nll:.1f}   AIC {fit.aic:.1f}"
        assert axes.get_xlabel() == "income"
        rows = axes.collections[0].get_offsets()
        assert np.array_equal(rows, engel.table[["income", "food_expenditure"]])
        expected = predict(fit, pd.DataFrame({"income": grid}))
        (line,) = axes.lines
        assert np.array_equal(line.get_xdata(), grid)
        assert np.allclose(line.get_ydata(), expected.mean, rtol=1e-12)
        for percent in (50, 90):
            lower, upper = band(axes, f"{percent} % of new rows")
            ends = [
                expected.icdf(torch.tensor(0.5 + sign * percent / 200, dtype=torch.float64))
                for sign in (-1, 1)
            ]
            assert np.allclose(lower, ends[0], rtol=1e-6)
            assert np.allclose(upper, ends[1], rtol=1e-6)
    assert panels(figure)[0].get_ylabel() == "food_expenditure"


def test_panels_share_their_axes(engel: Learned, fits: dict[str, Fit]) -> None:
    figure = picture_of_table(fits, engel.design, engel.table)
    first, *rest = panels(figure)
    for axes in rest:
        assert first.get_shared_x_axes().joined(first, axes)
        assert first.get_shared_y_axes().joined(first, axes)


def test_a_transformed_input_is_still_one_input(engel: Learned) -> None:
    learned = learn("food_expenditure ~ poly(income, 2) + log(income)", engel.table)
    figure = picture_of_table({"gaussian": fitted(learned)["gaussian"]}, learned.design, learned.table)
    (axes,) = panels(figure)
    assert axes.get_xlabel() == "income"
    assert len(axes.lines[0].get_xdata()) == 200


@pytest.mark.parametrize("right", ["Wind + Temp", "C(Month)", "{1 / (Wind - 9)}"])
def test_anything_else_has_observed_against_predicted(right: str) -> None:
    air = read_table(DATA / "airquality.csv").query("Wind != 9 and Ozone == Ozone")
    air.loc[air.index[:2], "Wind"] = [
        0.0,
        199.0,
    ]  # A grid of 200 has 9 in it, where 1 / (Wind - 9) has its pole.
    learned = learn(f"Ozone ~ {right}", air)
    model, x = set_up("gaussian", learned.design, learned.table)
    fit = mle(model, x, learned.design.y(learned.table))
    (axes,) = panels(picture_of_table({"gaussian": fit}, learned.design, learned.table))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted Ozone", "observed Ozone")
    drawn = axes.collections[0].get_offsets()
    assert np.allclose(drawn[:, 0], predict(fit, x).mean)
    assert np.array_equal(drawn[:, 1], learned.table["Ozone"])
    (line,) = axes.lines
    assert np.array_equal(line.get_xdata(), line.get_ydata())


def test_text_has_observed_against_predicted() -> None:
    learned = learn("breaks ~ tension", read_table(DATA / "warpbreaks.csv"))
    (axes,) = panels(picture_of_table({"laplace": fitted(learned)["laplace"]}, learned.design, learned.table))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted breaks", "observed breaks")


def test_arrays_are_drawn_as_tables_are(engel: Learned, fits: dict[str, Fit]) -> None:
    x, y = engel.table[["income"]], engel.table["food_expenditure"]
    one = picture(fits, x, y, names=("income", "food_expenditure"))
    two = picture_of_table(fits, engel.design, engel.table)
    for first, second in zip(panels(one), panels(two), strict=True):
        assert np.allclose(first.lines[0].get_ydata(), second.lines[0].get_ydata(), rtol=1e-12)
        assert first.get_xlabel() == second.get_xlabel()
    wide = np.c_[x, x**2]
    several = picture({"gaussian": mle(models.gaussian, wide, y)}, wide, y)
    assert panels(several)[0].get_xlabel() == "predicted y"


def test_more_panels_than_a_row_holds_go_below(engel: Learned, fits: dict[str, Fit]) -> None:
    many = {f"{name} {i}": fit for i in range(2) for name, fit in fits.items()}
    many.popitem()
    figure = picture_of_table(many, engel.design, engel.table)
    assert len(panels(figure)) == 5
    assert [bool(axes.get_xlabel()) for axes in panels(figure)] == [False, False, True, True, True]


@pytest.mark.parametrize("number", [1, 3, 5])
def test_nothing_overlaps(engel: Learned, fits: dict[str, Fit], number: int) -> None:
    many = {f"{name} {i}": fit for i in range(2) for name, fit in fits.items()}
    figure = picture_of_table(dict(list(many.items())[:number]), engel.design, engel.table)
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [axes.get_tightbbox(renderer) for axes in panels(figure)]
    boxes.append(figure.legends[0].get_window_extent(renderer))
    for i, box in enumerate(boxes):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
        assert box.y1 <= figure.bbox.y1
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_many_rows_are_thinned(fits: dict[str, Fit]) -> None:
    generator = np.random.default_rng(0)
    x = generator.random((30_000, 1))
    fit = mle(models.gaussian, x, x[:, 0] + generator.normal(size=30_000))
    (axes,) = panels(picture({"gaussian": fit}, x, x[:, 0]))
    assert len(axes.collections[0].get_offsets()) == 10_000


def test_a_picture_is_written(engel: Learned, fits: dict[str, Fit], tmp_path: Path) -> None:
    figure = picture_of_table(fits, engel.design, engel.table)
    path = write(figure, tmp_path / "deep" / "engel.png")
    pixels = image.imread(path)
    assert pixels.shape[1] > 1500
    assert pixels[..., :3].std() > 0.05  # not blank
    assert write(figure, tmp_path / "engel.svg").read_text().startswith("<?xml")
    with pytest.raises(DataError, match=r"cannot be written as `x\.doc`\. End its name in \.png"):
        check_format(Path("x.doc"))


def test_without_a_fit_there_is_no_picture(engel: Learned) -> None:
    with pytest.raises(DataError, match="there is no fit to draw"):
        picture_of_table({}, engel.design, engel.table)
