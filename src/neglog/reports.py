"""Reports: the output of the command line, as tables for people and as JSON for programs."""

from __future__ import annotations

import html
import io
import itertools
import math
from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from neglog.arguments import share, shown, text
from neglog.bayes.sampling import Posterior
from neglog.calls import public
from neglog.comparison import Comparison, Entry
from neglog.errors import ModelError
from neglog.fitting.fit import Fit, check_fit
from neglog.selection import held_out

HEADINGS = {
    "estimate": "estimate",
    "std_error": "std. error",
    "z": "z",
    "p_value": "p",
    "lower": "lower",
    "upper": "upper",
    "r_hat": "R-hat",
    "ess": "ESS",
}


@public
def estimates_table(estimates: pd.DataFrame, level: float = 0.95) -> Table:
    """The table of a fit; a parameter's name appears once.

    Raises:
        ModelError: `estimates` is no table of `summary`, or `level` no number between 0 and 1.
    """
    _check_estimates(estimates)
    level = share("level", level)
    percent = f"{100 * level:g} %"
    headings = {**HEADINGS, "lower": f"{percent} from", "upper": "to"}
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("parameter")
    table.add_column("term")
    for name in estimates.columns:
        table.add_column(headings.get(name, name), justify="right")
    before = None
    for label, row in estimates.iterrows():
        parameter, term = cast(tuple[str, str], label)
        cells = [_cell(name, value) for name, value in row.items()]
        # Text, since rich would read the brackets of `logit[low]` and `C(group)[T.b]` as styles.
        table.add_row(Text("" if parameter == before else parameter), Text(term), *cells)
        before = parameter
    return table


@public
def estimates_text(estimates: pd.DataFrame) -> str:
    """The table of `summary` as plain text, as wide as it needs to be, with the properties of the fit below.

    >>> import torch
    >>> from neglog import mle, models, summary
    >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> fit = mle(models.gaussian, x, torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))
    >>> print(estimates_text(summary(fit)).partition("\\n\\n")[2])
    n = 3, k = 3, NLL = 3.2171, AIC = 12.434, BIC = 9.7301
    standard errors: observed; intervals: wald, 95 %
    """
    _check_estimates(estimates)
    written = io.StringIO()
    shown = estimates_table(estimates, float(estimates.attrs.get("level", 0.95)))
    Console(width=200, file=written, color_system=None).print(shown)
    lines = [line.rstrip() for line in written.getvalue().splitlines()]
    return "\n".join([*lines, *([""] * bool(estimates.attrs)), *_footer(estimates)])


@public
def estimates_html(estimates: pd.DataFrame) -> str:
    """The table of `summary` as an HTML table, every name escaped, with the properties of the fit below."""
    head, rows = _grid(estimates)
    heads = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    lines = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    below = [f'<tr><td colspan="{len(head)}">{html.escape(line)}</td></tr>' for line in _footer(estimates)]
    foot = ["<tfoot>", *below, "</tfoot>"] if below else []
    return "\n".join(["<table>", f"<tr>{heads}</tr>", *lines, *foot, "</table>"])


@public
def estimates_latex(estimates: pd.DataFrame) -> str:
    """The table of `summary` as a LaTeX tabular, every name escaped, with the properties of the fit below.

    It needs no package.
    """
    head, rows = _grid(estimates)
    lines = [" & ".join(map(_latex, row)) + r" \\" for row in (head, *rows)]
    start = rf"\begin{{tabular}}{{ll{'r' * (len(head) - 2)}}}"
    below = [rf"\multicolumn{{{len(head)}}}{{l}}{{{_latex(line)}}} \\" for line in _footer(estimates)]
    body = [start, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", *below]
    return "\n".join([*body, r"\end{tabular}"])


def _check_estimates(estimates: Any) -> None:
    """Refuse anything but a table of `summary`, whose rows are named by parameter and term."""
    if not isinstance(estimates, pd.DataFrame) or not all(
        isinstance(label, tuple) and len(label) == 2 and all(isinstance(part, str) for part in label)
        for label in estimates.index
    ):
        raise ModelError(
            f"`estimates` must be a table of neglog.summary(fit), a row for each parameter and term; it is "
            f"{shown(estimates)}."
        )


def _check_comparison(comparison: Any) -> None:
    if not isinstance(comparison, Comparison):
        raise ModelError(f"`comparison` must be what neglog.comparison returns; it is {shown(comparison)}.")


def _footer(estimates: pd.DataFrame) -> list[str]:
    """The properties of the fit that a table of `summary` has, in lines; none for a table without them."""
    facts = estimates.attrs
    if not facts:
        return []
    names = {"n": "n", "k": "k", "nll": "NLL", "aic": "AIC", "aicc": "AICc", "bic": "BIC"}
    shown = {name: float(facts[key]) for key, name in names.items() if key in facts}
    numbers = ", ".join(f"{name} = {value:.5g}" for name, value in shown.items() if math.isfinite(value))
    errors = facts.get("cov_type") or f"none, since {str(facts.get('reason', '')).removesuffix('.')}"
    spans = (
        f"; intervals: {facts['interval']}, {100 * float(facts['level']):g} %"
        if facts.get("cov_type")
        else ""
    )
    return [numbers, f"standard errors: {errors}{spans}"]


def _grid(estimates: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """The headings and the cells of the table of `summary`, as text."""
    _check_estimates(estimates)
    level = 100 * float(estimates.attrs.get("level", 0.95))
    headings = {**HEADINGS, "lower": f"{level:g} % from", "upper": "to"}
    head = ["parameter", "term", *(headings.get(str(name), str(name)) for name in estimates.columns)]
    rows = [
        [*cast(tuple[str, str], label), *(_cell(name, value) for name, value in row.items())]
        for label, row in estimates.iterrows()
    ]
    return head, rows


LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
}
"""Special characters of LaTeX, and their escapes."""


def _latex(text: str) -> str:
    return "".join(LATEX.get(sign, sign) for sign in text)


@public
def fit_table(fit: Fit, loss: str) -> Table:
    """The properties of a fit, one a line."""
    check_fit(fit)
    text("loss", loss)
    table = Table.grid(padding=(0, 2))
    table.add_row("method", "maximum likelihood" if fit.loss == fit.nll else "maximum a posteriori")
    table.add_row("rows", f"{fit.n:g}")
    table.add_row("NLL", f"{fit.nll:.4f} nats")
    table.add_row("AIC", f"{fit.aic:.4f}")
    table.add_row("BIC", f"{fit.bic:.4f}")
    table.add_row("replaces", Text(loss))
    table.add_row("converged", "yes" if fit.converged else "no")
    table.add_row("status", Text(fit.status))
    return table


@public
def comparison_table(comparison: Comparison) -> Table:
    """One model a row, the best first, with the loss that it replaces below its name."""
    _check_comparison(comparison)
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=0)
    table.add_column("model")
    for heading in ("NLL", "AIC", "BIC", "held-out log\nscore per row", "behind\nthe best", "converged"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name in comparison.scores:
        table.add_column(f"held-out\n{name}", justify="right", no_wrap=True)
    for entry in comparison.entries:
        scores = (*_scores(entry), *_held_out(comparison, entry), _converged(entry))
        scores += tuple(_further(comparison, entry))
        table.add_row(Group(entry.model, Text(_short(entry.loss), style="dim")), *scores)
    return table


def _short(loss: str) -> str:
    """PyTorch's class, or that it has none."""
    name = loss.partition(" (")[0]
    return name if name.startswith("torch.") else "its own likelihood"


@public
def reasons(comparison: Comparison) -> list[str]:
    """One line for each model that could not be scored."""
    _check_comparison(comparison)
    return [f"{entry.model}: {entry.reason}" for entry in comparison.entries if entry.reason is not None]


@public
def conclusion(comparison: Comparison) -> list[str]:
    """The kind of models compared and the reason, where that was a choice; and the verdict."""
    _check_comparison(comparison)
    return [line for line in (comparison.scope, comparison.verdict) if line is not None]


@public
def fit_json(fit: Fit, estimates: pd.DataFrame, loss: str, **more: Any) -> dict[str, Any]:
    """A fit as one JSON document, to the last digit; null for missing values."""
    check_fit(fit)
    _check_estimates(estimates)
    text("loss", loss)
    rows = _rows_json(estimates)
    return {**more, "replaces": loss, "estimates": rows, **_numbers(fit), "loss": finite(fit.loss)}


@public
def draws_table(result: Posterior, found: Any, level: float = 0.95) -> pd.DataFrame:
    """The table of draws: a row for each (parameter, term), with mean, sd, an equal-tailed interval at
    `level`, and for chains R-hat and the effective sample size.

    Args:
        result: a posterior.
        found: the same posterior as `to_arviz` returns it, with the names of terms.
        level: the level of the intervals.
    """
    tails = [0.5 - share("level", level) / 2, 0.5 + level / 2]
    rows: dict[tuple[str, str], dict[str, float]] = {}
    for name, draws in result.draws.items():
        if not draws[0, 0].numel():
            continue
        array = found["posterior"][name]
        labels = [[str(each) for each in array[axis].values] for axis in array.dims[2:]]
        values = draws.flatten(0, 1).reshape(draws.shape[0] * draws.shape[1], -1).numpy()
        chains = {key: getattr(result, key).get(name) for key in ("r_hat", "ess")}
        for place, parts in enumerate(itertools.product(*labels)):
            column = values[:, place]
            lower, upper = np.quantile(column, tails)
            numbers = {"mean": column.mean(), "sd": column.std(ddof=1), "lower": lower, "upper": upper}
            mixing = {key: float(each.reshape(-1)[place]) for key, each in chains.items() if each is not None}
            rows[_parameter(name, ", ".join(parts))] = {**numbers, **mixing}
    table = pd.DataFrame.from_dict(rows, orient="index")
    return table.set_axis(pd.MultiIndex.from_tuples(list(rows), names=["parameter", "term"]), axis="index")


def _parameter(site: str, label: str) -> tuple[str, str]:
    """The parameter and the term of a number of a site, as tables of fits name them."""
    predictor, _, part = site.rpartition(".")
    if part == "bias":
        return predictor, f"Intercept[{label}]" if label else "Intercept"
    return (predictor, label) if part == "weight" and predictor else (site, label)


@public
def posterior_json(result: Posterior, table: pd.DataFrame, **more: Any) -> dict[str, Any]:
    """A posterior as one JSON document: the table of its draws, and its diagnostics."""
    chains, draws = result.shape
    facts = {"method": result.method, "converged": result.converged, "status": result.status}
    counts = {"chains": chains, "draws": draws, "divergences": result.divergences}
    return {**more, "estimates": _rows_json(table), **facts, **counts}


def _rows_json(estimates: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        dict(zip(("parameter", "term"), cast(tuple[str, str], label), strict=True))
        | {str(name): finite(value) for name, value in row.items()}
        for label, row in estimates.iterrows()
    ]


@public
def comparison_json(comparison: Comparison, **more: Any) -> dict[str, Any]:
    """A comparison as one JSON document, to the last digit; null for missing values."""
    _check_comparison(comparison)
    entries = [_entry_json(comparison, entry) for entry in comparison.entries]
    verdict = comparison.verdict if comparison.scored else None
    kind = {"response": comparison.response, "scope": comparison.scope}
    return {**more, **kind, "models": entries, "verdict": verdict}


@public
def finite(value: Any) -> float | None:
    """A number as JSON has it: neither NaN nor infinity."""
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        raise ModelError(f"a number is needed here; it is {shown(value)}.") from error
    return number if math.isfinite(number) else None


def _numbers(fit: Fit | None) -> Mapping[str, Any]:
    if fit is None:
        return dict.fromkeys(("n", "k", "nll", "aic", "bic", "converged", "status", "n_iter", "steps"))
    return {
        **{name: finite(getattr(fit, name)) for name in ("n", "nll", "aic", "bic")},
        **{name: getattr(fit, name) for name in ("k", "converged", "status", "n_iter")},
        "steps": fit.n_iter,  # its former name, for one release
    }


def _entry_json(comparison: Comparison, entry: Entry) -> dict[str, Any]:
    return {
        "model": entry.model,
        "replaces": entry.loss,
        **_numbers(entry.fit),
        "converged": entry.converged if entry.validation else _numbers(entry.fit)["converged"],
        **{name: finite(value) for name, value in held_out(comparison, entry).items()},
        "reason": entry.reason,
    }


def _scores(entry: Entry) -> list[str]:
    if entry.fit is None:
        return ["–"] * 3
    return [f"{value:.1f}" for value in (entry.fit.nll, entry.fit.aic, entry.fit.bic)]


def _held_out(comparison: Comparison, entry: Entry) -> list[str]:
    if entry.validation is None:
        return ["–", "–"]
    gap, error = comparison.behind(entry)
    score = f"{entry.validation.mean:.3f} ± {entry.validation.standard_error:.3f}"
    return [score, "" if entry is comparison.scored[0] else f"{gap:.3f} ± {error:.3f}"]


def _further(comparison: Comparison, entry: Entry) -> list[str]:
    found = held_out(comparison, entry)
    cells = [(found[name], found[f"{name}_standard_error"]) for name in comparison.scores]
    return ["–" if math.isnan(score) else f"{score:.4g} ± {error:.2g}" for score, error in cells]


def _converged(entry: Entry) -> str:
    if entry.validation is None:
        return "failed"
    return "yes" if entry.converged else "no"


def _cell(name: object, value: float) -> str:
    if not math.isfinite(value):
        return ""
    if name == "p_value":
        return "< 0.0001" if value < 1e-4 else f"{value:.4f}"
    return f"{value:.2f}" if name == "z" else f"{value:.5g}"
