"""A model without its line in the documents, or without a fit of other software beside it, is not finished.

Whether a row is right is for people to judge; that it is there, is checked here. The loss of every model, in
`losses.TABLE`, is held in test_models.py.
"""

import ast
import re
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from loss_tables import written
from reference import CASES, FAMILIES
from table import TABLE

from neglog import covariance, datasets, handlers, mle, models

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IMAGES = sorted((ROOT / "docs" / "images").glob("*.png"))
LINK = re.compile(r"(?<!`)\[[^]]*\]\(([^)\s]+)\)")
LARGEST = 70_000
"""Bytes of a picture: what a page loads at once."""
BESIDE = {name: model.beside for name, model in TABLE.items() if model.beside}
"""Model -> the test that holds it beside other software on real data, where it has no case in cases.json."""


def rows(document):
    """The rows of a document's tables: the names in backticks, cell by cell."""
    lines = document.read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1:-1] for line in lines if line.startswith("|")]
    return [[re.findall(r"`(\w+)`", cell) for cell in row] for row in cells]


def headings(document):
    """What a link may point to within a document: its headings in lower case, with dashes."""
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def missing(names, document, column):
    """The names without exactly one row that has them in this column."""
    found = [name for row in rows(document) if len(row) > column for name in row[column]]
    return sorted(name for name in names if found.count(name) != 1)


@pytest.mark.parametrize(("path", "text"), written().items(), ids=lambda each: getattr(each, "stem", ""))
def test_the_tables_of_models_are_those_that_the_models_declare(path, text):
    """`python tests/loss_tables.py` writes them."""
    assert path.read_text(encoding="utf-8") == text
    column = 2 if path.stem == "which-likelihood" else 0
    assert missing(models.__all__, path, column) == []
    assert missing(["poisson", "tweedie"], path, column) == ["tweedie"]  # it can fail


def test_handlers_of_the_observation_have_their_row_too():
    names = ["censored", "masked", "truncated"]
    assert set(names) <= set(handlers.__all__)
    assert missing(names, ROOT / "docs" / "which-likelihood.md", 2) == []


def test_every_page_is_linked_from_the_readme():
    linked = set(LINK.findall((ROOT / "README.md").read_text(encoding="utf-8")))
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} <= linked


def test_every_likelihood_has_a_page():
    for row in (ROOT / "docs" / "which-likelihood.md").read_text(encoding="utf-8").splitlines():
        assert not row.startswith("|") or not row.endswith("| – |"), row


@pytest.mark.parametrize(
    "document", DOCUMENTS, ids=lambda document: f"{document.parent.name}-{document.stem}"
)
def test_links_lead_somewhere(document):
    for link in LINK.findall(document.read_text(encoding="utf-8")):
        if "://" in link:
            continue
        path, _, heading = unquote(link).partition("#")
        target = document.parent / path if path else document
        assert target.exists(), link
        assert not heading or heading in headings(target), link


@pytest.mark.parametrize("image", IMAGES, ids=lambda image: image.stem)
def test_pictures_are_small_and_shown(image):
    assert image.stat().st_size <= LARGEST
    assert image.stem == "benchmarks_growth" or (ROOT / "examples" / f"{image.stem}.py").exists()
    assert any(f"images/{image.name}" in page.read_text(encoding="utf-8") for page in DOCUMENTS)


def test_every_example_is_listed():
    listed = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for script in sorted((ROOT / "examples").glob("[0-9]*.py")):
        assert listed.count(f"[`{script.name}`]({script.name})") == 1, script.name


def test_every_model_is_held_beside_other_software_on_real_data():
    of_cases = {FAMILIES[case["family"]][0].__name__ for case in CASES.values() if case["family"] in FAMILIES}
    assert not of_cases & set(BESIDE)
    assert of_cases | set(BESIDE) == set(models.__all__)


@pytest.mark.parametrize("name", BESIDE)
def test_the_test_that_holds_a_model_is_there(name):
    file, _, function = BESIDE[name].partition("::")
    source = (Path(__file__).parent / file).read_text(encoding="utf-8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    assert function in functions
    # In the test, or in a table that the module gives it.
    assert re.search(rf"models\.{name}\b", source)


# R 4.2.2, survreg and glm with the log link: weights, intercept, spread, log-likelihood.
OZONE = {
    "logistic": (models.logistic, [1.757534548665640, -2.762399520659096, 0.050264009345402],
                 -78.596684950316458, 10.896437627418900, -488.641782811165569),
    "lognormal": (models.lognormal, [4.9171124301704e-02, -6.1562470009897e-02, 2.5151770575601e-03],
                  -2.6213231315560e-01, 4.9932338019090e-01, -4.5958045422413e02),
    "weibull": (models.weibull, [0.037999498957515, -0.069175660621625, 0.002000947445384],
                1.018406352568975, 1 / 0.446068704296306, -460.471397154423130),
    "inverse_gaussian": (models.inverse_gaussian,
                         [3.8764809184500e-02, -5.0005140318131e-02, 2.1543583898648e-03],
                         5.9408306692496e-01, 1.6980084691945e-02, -5.0005193216764e02),
}  # fmt: skip
OZONE_ERRORS = {  # of the columns and of the intercept, by survreg
    "logistic": [0.212704454492594, 0.609903030627155, 0.019917525304251, 19.441549083496596],
    "lognormal": [0.00597681138444525, 0.01542725125453027, 0.00054660689753965, 0.54350116922007463],
    "weibull": [0.00537055772650092, 0.01134834870921960, 0.00055810060175544, 0.45710436021540218],
}


@pytest.mark.parametrize("name", OZONE)
def test_ozone_is_fitted_as_r_fits_it(name):
    model, weight, bias, spread, loglik = OZONE[name]
    ozone = datasets.load("ozone")
    fit = mle(model, ozone[["temperature", "wind", "radiation"]], ozone["ozone"])
    assert fit.converged, fit.status
    assert -fit.nll == pytest.approx(loglik, rel=1e-11)
    found = torch.cat([value.reshape(-1) for value in fit.params.values()]).tolist()
    matrix = covariance(fit).to_numpy()
    errors = np.sqrt(np.diag(matrix))
    # R's iterations stop where the log-likelihood no longer moves: 1e-6 standard errors off, at most.
    assert (abs(np.subtract(found, [*weight, bias, spread])) <= 1e-6 * errors).all()
    if name in OZONE_ERRORS:
        np.testing.assert_allclose(errors[:4], OZONE_ERRORS[name], rtol=1e-6)


def test_articles_are_counted_as_pscl_counts_them():
    # zeroinfl of R's pscl 1.5.5, with all columns for the count and for the zeros; glm and glm.nb.
    students = datasets.load("articles")
    x, articles = students.drop(columns="articles"), students["articles"]
    poisson = mle(models.zero_inflated_poisson, {"log_rate": x, "zero": x}, articles)
    binomial = mle(models.zero_inflated_negative_binomial, {"log_mean": x, "zero": x}, articles)
    # The prestige is rounded to three decimals here; its copy in single precision moves them by 1e-8.
    assert -poisson.nll == pytest.approx(-1604.77285321, abs=1e-6)
    assert -binomial.nll == pytest.approx(-1549.99088706, abs=5e-6)
    count, zeros = poisson.params["log_rate.weight"], poisson.params["logit_zero.weight"]
    assert count.tolist() == pytest.approx([-0.209144, 0.103750, -0.143320, -0.006166, 0.018098], abs=2e-6)
    assert zeros.tolist() == pytest.approx([0.109752, -0.354018, 0.217095, 0.001275, -0.134114], abs=1e-5)
    assert 1 / binomial.params["dispersion"].item() == pytest.approx(2.654769, abs=2e-4)
