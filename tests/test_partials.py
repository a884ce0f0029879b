"""Laws over functions given by their derivatives: mpmath's numbers, however they are differentiated."""

import math
from functools import cache

import mpmath as mp
import pyro
import pytest
import torch
from table import TABLE

from neglog import distributions as dist
from neglog import flat
from neglog.data import prepare
from neglog.distributions.partials import Law
from neglog.distributions.special import log_excess, remainder, stirling_remainder
from neglog.graphs.graph import trace
from neglog.objective.objective import Objective

EXACT = 2e-11
"""Relative agreement with mpmath: the digits that cancellation may cost."""


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def mp_derivative(f, at, order):
    """The derivative of `f`, by central differences with a relative step of 1e-20."""
    with mp.workdps(max(mp.mp.dps, 60 + 25 * order)):  # the division costs 20 digits an order
        h, ends = mp.mpf(at) * mp.mpf("1e-20"), mp.mpf(order) / 2
        terms = ((-1) ** k * mp.binomial(order, k) * f(at + (ends - k) * h) for k in range(order + 1))
        return float(mp.fsum(terms) / h**order)


def derivatives(f, at, orders):
    """The value of `f` and its derivatives up to an order, by autograd."""
    leaf = tensor(at).requires_grad_()
    found = [f(leaf)]
    for _ in range(orders):
        found.append(torch.autograd.grad(found[-1], leaf, create_graph=True)[0])
    return [value.item() for value in found]


# Building blocks


def mp_remainder(z):
    return mp.loggamma(z) - (z - 0.5) * mp.log(z) + z - mp.log(2 * mp.pi) / 2


Z = (1e-6, 0.03, 0.5, 1.0, 4.0, 9.99, 10.01, 25.0, 1e4, 1e9)


@pytest.mark.parametrize("z", Z)
def test_stirlings_remainder_and_its_derivatives_are_exact(z):
    for order, value in enumerate(derivatives(remainder, z, 6)):
        # log Γ and z log z, of order one, leave 1 / 12z: no more than four digits go.
        assert value == pytest.approx(mp_derivative(mp_remainder, z, order), rel=1e-12), order


@pytest.mark.parametrize("z", Z)
def test_stirlings_remainder_of_the_inverse_is_smooth_down_to_zero(z):
    for order, value in enumerate(derivatives(stirling_remainder, 1 / z, 6)):
        exact = mp_derivative(lambda w: mp_remainder(1 / w), 1 / z, order)
        # For z below 10 what cancels is of the size of order! z^(order + 1). Above nothing does, and what the
        # series leaves out costs two digits an order from the third on.
        lost = 1e-15 * math.factorial(order) * z ** (order + 1) if z < 10 else 0.0
        assert value == pytest.approx(exact, rel=10.0 ** (2 * max(order, 2) - 16), abs=lost), order


@pytest.mark.parametrize("q", [1e-12, 1e-3, 0.2, 0.49, 0.51, 3.0, 1e6])
def test_the_log_in_excess_of_a_share(q):
    exact = mp_derivative(lambda q: mp.log1p(q) - q / (1 + q), q, 0)
    assert log_excess(tensor(q)).item() == pytest.approx(exact, rel=1e-14)


# Log-densities: name -> a function of parameters that autograd differentiates, mpmath's, values.


def mp_negative_binomial(y, log_mean, log_dispersion):
    m, r = mp.exp(log_mean), mp.exp(-log_dispersion)
    gammas = mp.loggamma(y + r) - mp.loggamma(r) - mp.loggamma(y + 1)
    return gammas - (r + y) * mp.log1p(m / r) + y * mp.log(m / r)


def mp_student(y, loc, log_scale, df):
    z = (y - loc) / mp.exp(log_scale)
    gammas = mp.loggamma((df + 1) / 2) - mp.loggamma(df / 2) - mp.log(df * mp.pi) / 2
    return gammas - log_scale - (df + 1) / 2 * mp.log1p(z * z / df)


def mp_student_below(y, loc, log_scale, df):
    z = (y - loc) / mp.exp(log_scale)
    tail = mp.betainc(df / 2, mp.mpf(1) / 2, 0, df / (df + z * z), regularized=True) / 2
    return mp.log(tail if z < 0 else 1 - tail)


def mp_beta(y, a, b):
    gammas = mp.loggamma(a + b) - mp.loggamma(a) - mp.loggamma(b)
    return gammas + (a - 1) * mp.log(y) + (b - 1) * mp.log1p(-y)


def mp_poisson(y, log_rate):
    return y * log_rate - mp.exp(log_rate) - mp.loggamma(y + 1)


def mp_zero_inflated(y, log_rate, zero):
    share = 1 / (1 + mp.exp(-zero))
    return mp.log(share * (y == 0) + (1 - share) * mp.exp(mp_poisson(y, log_rate)))


def mp_binomial(y, logit):
    return mp.log(mp.binomial(9, y)) - y * mp.log1p(mp.exp(-logit)) - (9 - y) * mp.log1p(mp.exp(logit))


DENSITIES = {
    "negative_binomial": (
        lambda y, m, a: dist.NegativeBinomial2(torch.exp(m), torch.exp(a)).log_prob(y),
        mp_negative_binomial,
        [(y, m, a) for y in (0.0, 1.0, 90.0) for m in (-2.0, 2.0) for a in (-9.0, -2.5, 0.5, 4.0)],
    ),
    "student_t": (
        lambda y, m, s, v: dist.StudentT(v, m, torch.exp(s)).log_prob(y),
        mp_student,
        [(y, 0.3, s, v) for y in (0.4, -3.0, 80.0) for s in (-1.0, 0.7) for v in (0.7, 4.0, 25.0, 1e5)],
    ),
    "student_t_below": (
        lambda y, m, s, v: dist.StudentT(v, m, torch.exp(s)).log_cdf(y),
        mp_student_below,
        [(y, 0.3, 0.2, v) for y in (0.4, -3.0) for v in (0.7, 4.0, 300.0)],
    ),
    "gamma": (
        lambda y, m, a: dist.Gamma(a, a / torch.exp(m)).log_prob(y),
        lambda y, m, a: a * mp.log(a * y) - a * m - mp.log(y) - a * y / mp.exp(m) - mp.loggamma(a),
        [(y, m, a) for y in (0.01, 1.0, 30.0) for m in (-1.0, 2.0) for a in (0.2, 9.5, 400.0)],
    ),
    "beta": (
        lambda y, a, b: dist.Beta(a, b).log_prob(y),
        mp_beta,
        [(y, a, b) for y in (0.01, 0.4, 0.99) for a in (0.3, 7.0) for b in (2.0, 300.0)],
    ),
    "poisson": (
        lambda y, m: dist.Poisson(torch.exp(m)).log_prob(y),
        mp_poisson,
        [(y, m) for y in (0.0, 5.0, 63.0, 64.0, 900.0) for m in (-3.0, 1.0, 6.0)],
    ),
    "binomial": (
        lambda y, e: dist.Binomial(tensor(9.0), logits=e).log_prob(y),
        mp_binomial,
        [(y, e) for y in (0.0, 4.0, 9.0) for e in (-30.0, -1.0, 2.0, 30.0)],
    ),
    "bernoulli": (
        lambda y, e: dist.Bernoulli(logits=e).log_prob(y),
        lambda y, e: -mp.log1p(mp.exp(-e if y else e)),
        [(y, e) for y in (0.0, 1.0) for e in (-30.0, -1.0, 2.0, 30.0)],
    ),
    "logistic": (
        lambda y, m, s: dist.Logistic(m, torch.exp(s)).log_prob(y),
        lambda y, m, s: -(y - m) / mp.exp(s) - s - 2 * mp.log1p(mp.exp(-(y - m) / mp.exp(s))),
        [(y, 0.3, s) for y in (0.4, -3.0, 9.0) for s in (-1.0, 0.7)],
    ),
    "zero_inflated_poisson": (
        lambda y, m, z: dist.ZeroInflated(dist.Poisson(torch.exp(m)), z).log_prob(y),
        mp_zero_inflated,
        [(y, m, z) for y in (0.0, 3.0) for m in (-4.0, 1.0, 3.5) for z in (-8.0, 0.4, 8.0)],
    ),
    "weibull": (
        lambda y, m, k: dist.Weibull(torch.exp(m), k).log_prob(y),
        lambda y, m, k: mp.log(k) - m + (k - 1) * (mp.log(y) - m) - mp.exp(k * (mp.log(y) - m)),
        [(y, m, k) for y in (0.01, 1.0, 30.0) for m in (-0.5, 2.0) for k in (0.4, 1.5)],
    ),
}
EACH = pytest.mark.parametrize("name", DENSITIES)
CONTINUOUS = {"student_t", "student_t_below", "gamma", "beta", "logistic", "weibull"}
"""Families whose density has derivatives in the value too."""
UP_TO = 4


def along(f, parameters, steps):
    """`f` on a line through the parameters, in all of which it moves by different steps."""
    return lambda t: f(*(p + step * t for p, step in zip(parameters, steps, strict=True)))


@EACH
def test_derivatives_up_to_the_fourth_are_exact_in_everything_at_once(name):
    density, exact, places = DENSITIES[name]
    for place in places:
        steps = [step * abs(p) for step, p in zip((0.1, 0.3, 0.5, 0.2), place, strict=False)]
        if name not in CONTINUOUS:
            steps[0] = 0.0

        @cache  # the differences of all even orders share their places, and those of all odd ones
        def reference(t, place=place, steps=steps):
            return along(exact, [mp.mpf(p) for p in place], steps)(t - 1)

        found = derivatives(along(density, [tensor(p) for p in place], steps), 0.0, UP_TO)
        with mp.workdps(60 + 25 * UP_TO):
            expected = [mp_derivative(reference, 1.0, order) for order in range(UP_TO + 1)]
        # A derivative may be small because its terms cancel; the largest of them says what rounding is.
        size = max(map(abs, expected))
        for order, (value, number) in enumerate(zip(found, expected, strict=True)):
            loose = 1 if order < 3 else 1e3
            close = pytest.approx(number, rel=loose * EXACT, abs=loose * 1e-13 * size)
            assert value == close, (place, order)


# torch's own rules for forward mode are scripts, which it calls outdated itself.
FORWARD = pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")


@FORWARD
@EACH
def test_hessians_are_the_same_in_every_mode(name):
    density, _, places = DENSITIES[name]
    y, *parameters = map(tensor, zip(*places, strict=True))

    def total(*p):
        return density(y, *p).sum()

    which = tuple(range(len(parameters)))

    def backward_twice(f, which):
        return torch.func.jacrev(torch.func.jacrev(f, which), which)

    with pyro.validation_enabled(False):
        plain = torch.autograd.functional.hessian(total, tuple(parameters))
        each = torch.func.vmap(torch.func.hessian(density, tuple(i + 1 for i in which)))(y, *parameters)
        modes = [mode(total, which)(*parameters) for mode in (torch.func.hessian, backward_twice)]
    for i in which:
        for j in which:
            for found in modes:
                torch.testing.assert_close(found[i][j], plain[i][j], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(each[i][j], plain[i][j].diagonal(), rtol=1e-12, atol=1e-12)


@EACH
def test_single_precision_has_the_digits_of_single_precision(name):
    density, _, places = DENSITIES[name]
    for y, *parameters in places:
        found = []
        for dtype in (torch.float64, torch.float32):
            leaves = [torch.tensor(p, dtype=torch.float32).to(dtype).requires_grad_() for p in parameters]
            value = density(torch.tensor(y, dtype=torch.float32).to(dtype), *leaves)
            first = torch.autograd.grad(value, leaves, create_graph=True)
            pairs = zip(first, leaves, strict=True)
            second = [torch.autograd.grad(g, leaf, retain_graph=True)[0] for g, leaf in pairs]
            assert value.dtype == first[0].dtype == second[0].dtype == dtype
            found.append(torch.stack([value, *first, *second]).detach().double())
        size = found[0].abs().max().item()
        torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-4 * max(size, 1.0))


@pytest.mark.parametrize("name", TABLE)
def test_second_derivatives_of_every_model_can_be_traced_to_a_graph(name):
    model = TABLE[name]
    x, y = model.sample(rows=6)
    objective = Objective(flat(model.model), prepare(x, y, **model.keywords(6)))

    def curvature(theta):
        theta = theta.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(objective.loss(theta), theta, create_graph=True)
        return torch.autograd.grad(gradient @ torch.linspace(1, 2, len(theta), dtype=theta.dtype), theta)[0]

    theta = objective.initial + 0.1
    with pyro.validation_enabled(False):
        graph = trace(curvature, theta, [], fixed=True).function()
        torch.testing.assert_close(graph(theta + 0.05), curvature(theta + 0.05))


# The laws of a Law


def square_of_sum(seen=None):
    """(x + y)², which notes each formula that is evaluated."""
    seen = [] if seen is None else seen

    def noted(index, formula):
        return lambda x, y: (seen.append(index), formula(x, y))[1]

    first, second = lambda x, y: 2 * (x + y), lambda x, y: 2 * torch.ones_like(x + y)
    formulas = {(): lambda x, y: (x + y) ** 2, (0,): first, (1,): first}
    formulas |= {(0, 0): second, (0, 1): second, (1, 1): second}
    return Law({index: noted(index, formula) for index, formula in formulas.items()})


def test_a_scalar_gets_the_sum_of_its_rows():
    x, y = tensor([1.0, 2.0, 4.0]).requires_grad_(), tensor(3.0).requires_grad_()
    first = torch.autograd.grad(square_of_sum()(x, y).sum(), (x, y), create_graph=True)
    assert first[0].tolist() == [8, 10, 14]
    assert first[1].item() == 32
    assert torch.autograd.grad(first[1], y, retain_graph=True)[0].item() == 6
    assert torch.autograd.grad(first[1], x)[0].tolist() == [2, 2, 2]


def test_each_derivative_is_one_evaluation():
    seen = []
    x, y = tensor([1.0, 2.0]).requires_grad_(), tensor([3.0, 4.0])
    (first,) = torch.autograd.grad(square_of_sum(seen)(x, y).sum(), x, create_graph=True)
    torch.autograd.grad(first.sum(), x)
    assert seen == [(), (0,), (0, 0)]


def test_what_a_law_does_not_list_vanishes():
    law = Law({(): lambda x, y: x * 1.0, (0,): lambda x, y: torch.ones_like(x), (0, 0): lambda x, y: 0 * x})
    x, y = tensor(2.0).requires_grad_(), tensor(3.0).requires_grad_()
    slope, nothing = torch.autograd.grad(law(x, y), (x, y), allow_unused=True)
    assert slope.item() == 1
    assert nothing is None


def test_a_law_may_hand_an_argument_back():
    law = Law({(): lambda x: x, (0,): torch.ones_like, (0, 0): torch.zeros_like})
    x = tensor([2.0, 3.0]).requires_grad_()
    assert torch.autograd.grad(law(x).sum(), x)[0].tolist() == [1, 1]


def test_batches_line_up_with_what_is_shared():
    x, y = torch.rand(4, 3, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    law, batched = square_of_sum(), torch.func.vmap(square_of_sum())
    torch.testing.assert_close(batched(x, y), law(x, y[:, None]))
    torch.testing.assert_close(torch.func.vmap(square_of_sum(), (1, None))(x, y), law(x.T, y))


@FORWARD
def test_forward_mode_has_the_shape_of_the_value():
    x, y = torch.rand(3, dtype=torch.float64), tensor(2.0)
    value, slope = torch.func.jvp(lambda y: square_of_sum()(x, y), (y,), (tensor(1.0),))
    torch.testing.assert_close(slope, 2 * (x + y))
    assert value.shape == slope.shape


@pytest.mark.parametrize("base", [dist.Poisson(2.0), dist.NegativeBinomial2(2.0, 0.5), dist.Binomial(9, 0.3)])
def test_counts_may_be_whole_numbers(base):
    y = torch.arange(8)
    torch.testing.assert_close(base.log_prob(y), base.log_prob(y.to(torch.get_default_dtype())))


def test_derivatives_that_share_a_part_compute_it_once():
    orders = []

    def common(order, x, y):
        orders.append(order)
        return torch.exp(x * y)

    law = Law(
        {
            (): lambda e, x, y: e,
            (0,): lambda e, x, y: y * e,
            (1,): lambda e, x, y: x * e,
            (0, 0): lambda e, x, y: y * y * e,
            (0, 1): lambda e, x, y: (1 + x * y) * e,
            (1, 1): lambda e, x, y: x * x * e,
        },
        common,
    )
    at = [tensor(0.3).requires_grad_(), tensor(0.7).requires_grad_()]
    value = law(*at)
    first = torch.autograd.grad(value, at, create_graph=True)
    second = [torch.autograd.grad(slope, at, retain_graph=True) for slope in first]
    assert len(orders) == 1
    size = math.exp(0.21)
    expected = [[0.49 * size, 1.21 * size], [1.21 * size, 0.09 * size]]
    assert torch.allclose(tensor([[part.item() for part in row] for row in second]), tensor(expected))
    with torch.no_grad():
        law(*at)
    assert orders == [2, 0]  # a value alone needs no more than its own order
