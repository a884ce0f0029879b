"""Formulas on real data against R: coefficients to 1e-8 standard errors, log-likelihoods to 1e-8 nats.

Of each case here a fit of R was compared with the figures in tests/cases, which have all digits: `CALLS` has
R's log-likelihood, and the largest difference of R's coefficients from the figures in standard errors.
R stops its iterations by the deviance (`glm`: a relative change below 1e-8); its figures are no closer than
that difference. There are none of R with these digits for splines and for levels that a table lacks.
"""

from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from reference import CASES
from reference import table as numbers

from neglog import mle, models, predict, summary
from neglog.tables import read_table

DATA = Path(__file__).parent / "data"
CLOSE = 1e-8
"""Of coefficients in standard errors, of log-likelihoods in nats."""

TENSION, DISTRICT, GROUP, AGE = (
    f"C({name}, contr.treatment({base!r}))"
    for name, base in (("tension", "L"), ("District", 1), ("Group", "<1l"), ("Age", "<25"))
)
TREATED = {"wool_B": "wool[T.B]", **{f"tension_{level}": f"{TENSION}[T.{level}]" for level in "MH"}}
CROSSED = {f"wool_B_x_tension_{level}": f"wool[T.B]:{TENSION}[T.{level}]" for level in "MH"}
INSURED = {
    **{f"District_{level}": f"{DISTRICT}[T.{level}]" for level in (2, 3, 4)},
    "Group_1_1_5l": f"{GROUP}[T.1-1.5l]",
    "Group_1_5_2l": f"{GROUP}[T.1.5-2l]",
    "Group_gt2l": f"{GROUP}[T.>2l]",
    "Age_25_29": f"{AGE}[T.25-29]",
    "Age_30_35": f"{AGE}[T.30-35]",
    "Age_gt35": f"{AGE}[T.>35]",
}
RACE = {"race_2": "C(race)[T.2]", "race_3": "C(race)[T.3]"}
QUINE = "Days ~ Eth_N + Sex_M + Age_F1 + Age_F2 + Age_F3 + Lrn_SL"
BIRTHS = "low ~ age + lwt + C(race) + smoke + ptl + ht + ui + ftv"


def local(name: str) -> pd.DataFrame:
    """A table with its text and its missing cells."""
    return read_table(DATA / f"{name}.csv")


def weighted() -> pd.DataFrame:
    return local("warpbreaks").assign(w=numbers("warpbreaks")["w_int"])


def air() -> pd.DataFrame:
    """With missing cells, which R leaves out."""
    return local("airquality").rename(columns={"Solar.R": "Solar_R"})


CALLS: dict[str, tuple[Any, ...]] = {
    # model, formula, table, keywords, column of the case -> term, R: log-likelihood, difference
    "gauss_cars": ("gaussian", "dist ~ speed", local("cars"), {}, {}, -206.57843151367663, 8.0e-15),
    "gauss_noint_cars": ("gaussian", "dist ~ 0 + speed", local("cars"), {}, {}, -209.87491833084303, 9.5e-15),
    "gauss_airquality": (
        *("gaussian", "Ozone ~ Solar_R + Wind + Temp", air(), {"drop_missing": True}, {}),
        *(-494.35855143691094, 5.5e-15),
    ),
    "laplace_engel": ("laplace", "foodexp ~ income", numbers("engel"), {}, {}, -1411.630124039615, 5.4e-15),
    "ald_engel_90": (
        *("quantile", "foodexp ~ income", numbers("engel"), {"tau": 0.9}, {}),
        *(-1428.2196179701546, 2.1e-15),
    ),
    "t_engel_dffree": (
        *("student_t", "foodexp ~ income", numbers("engel"), {}, {}),
        *(-1404.3314459208334, 6.6e-10),
    ),
    "pois_warpbreaks": (
        *("poisson", f"breaks ~ wool * {TENSION}", local("warpbreaks"), {}, {**TREATED, **CROSSED}),
        *(-228.48460447067527, 1.4e-14),
    ),
    "pois_insurance_offset": (
        *("poisson", f"Claims ~ {DISTRICT} + {GROUP} + {AGE} + offset(log(Holders))", local("insurance")),
        *({}, INSURED, -184.3707769992434, 2.6e-14),
    ),
    "pois_warpbreaks_weighted": (
        *("poisson", f"breaks ~ wool + {TENSION}", weighted(), {"weights": "w"}, TREATED),
        *(-479.97812690511637, 2.1e-13),
    ),
    "nb2_warpbreaks": (
        *("negative_binomial", f"breaks ~ wool + {TENSION}", local("warpbreaks"), {}, TREATED),
        *(-199.38190388900313, 4.2e-14),
    ),
    "nb2_quine": ("negative_binomial", QUINE, numbers("quine"), {}, {}, -546.5755091449917, 5.4e-11),
    "binom_menarche": (
        *("binomial", "Menarche ~ Age", numbers("menarche"), {"trials": "Total"}, {}),
        *(-55.37762715655194, 3.4e-14),
    ),
    "bern_birthwt": ("bernoulli", BIRTHS, local("birthwt"), {}, RACE, -100.64239752794056, 4.2e-15),
}


def fitted(name: str) -> Any:
    model, formula, table, keywords, *_ = CALLS[name]
    tau = keywords.get("tau")
    if tau is not None:
        return mle(partial(models.quantile, tau=tau), formula, table)
    return mle(model, formula, table, **keywords)


@pytest.mark.parametrize("name", CALLS)
def test_a_formula_has_the_figures_of_r(name: str) -> None:
    *_, terms, loglik, difference = CALLS[name]
    fit = fitted(name)
    estimates = {term: value for (_, term), value in summary(fit)["estimate"].items() if term}
    coefficients = [each for each in CASES[name]["params"] if each["name"].startswith("location.")]
    assert len(coefficients) == len(estimates)
    for known in coefficients:
        column = known["name"].removeprefix("location.")
        term = "Intercept" if column == "(Intercept)" else terms.get(column, column)
        unit = known.get("se_observed") or known["se_expected"]
        assert abs(estimates[term] - known["value"]) / unit <= CLOSE
    assert difference <= CLOSE
    assert -fit.nll == pytest.approx(loglik, abs=CLOSE)


def test_sum_contrasts_have_the_likelihood_and_the_predictions_of_r() -> None:
    table = local("warpbreaks")
    summed = mle("poisson", "breaks ~ C(wool, contr.sum) * C(tension, contr.sum)", table)
    assert -summed.nll == pytest.approx(CALLS["pois_warpbreaks"][-2], abs=CLOSE)
    means = predict(fitted("pois_warpbreaks"), table).mean
    assert predict(summed, table).mean.numpy() == pytest.approx(means.numpy(), rel=CLOSE)
