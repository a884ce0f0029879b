"""Zero-inflated counts, classes with an order and without, mixtures: closed forms, mpmath, laws, errors."""

import math

import mpmath as mp
import numpy as np
import pytest
import scipy.special
import scipy.stats as st
import torch
from pyro.distributions import TorchDistribution, constraints
from torch.fx.experimental.proxy_tensor import make_fx

from neglog import distributions as dist

CLOSE = 1e-10
"""Relative agreement with SciPy, where SciPy itself is that good."""
EXACT = 2e-11
"""Relative agreement with mpmath, of derivatives too."""
CHANCE = 1e-3
"""A p-value that a correct sampler falls below once in a thousand seeds; the seed is fixed."""


def tensor(values):
    return torch.as_tensor(values, dtype=torch.float64)


def poisson(mean):
    return dist.Poisson(mean)


def negative_binomial(mean):
    return dist.NegativeBinomial2(mean, 0.7)


SMALL = {
    "ZeroInflated Poisson": lambda a, m: dist.ZeroInflated(poisson(m.exp()), a),
    "ZeroInflated NegativeBinomial2": lambda a, m: dist.ZeroInflated(negative_binomial(m.exp()), a),
    "Categorical": lambda a, m: dist.Categorical(logits=torch.stack([torch.zeros_like(a), a, m], -1)),
    "Ordered": lambda a, m: dist.Ordered(a, torch.stack([m - 1, m, m + 2], -1)),
    "NormalMixture": lambda a, m: dist.NormalMixture(
        torch.stack([torch.zeros_like(a), a], -1), torch.stack([m, m + 4], -1), tensor([1.0, 0.3])
    ),
}
"""Families as functions of two real parameters."""
AT = (0.4, 1.1)
DISCRETE = ("ZeroInflated Poisson", "ZeroInflated NegativeBinomial2", "Categorical", "Ordered")
WITH_CDF = tuple(name for name in SMALL if name != "Categorical")
LAW = pytest.mark.parametrize("name", SMALL)
VALUE = {"NormalMixture": [-3.0, 1.7, 5.0, 9.0]}


def build(name, shape=()):
    return SMALL[name](*(tensor(p).expand(shape) for p in AT))


def values(name):
    return tensor(VALUE.get(name, [0.0, 1.0, 2.0]))


# Values


@pytest.mark.parametrize("logit", [-30.0, -2.0, 0.0, 3.0, 30.0])
@pytest.mark.parametrize("mean", [0.01, 0.3, 4.0, 60.0])
def test_zero_inflation_by_its_formula(logit, mean):
    share, rest = scipy.special.expit(logit), scipy.special.expit(-logit)
    y = np.arange(0.0, 40.0)
    for base, reference in (
        (poisson(tensor(mean)), st.poisson(mean)),
        (negative_binomial(tensor(mean)), st.nbinom(1 / 0.7, 1 / (1 + 0.7 * mean))),
    ):
        ours = dist.ZeroInflated(base, tensor(logit))
        pmf = share * (y == 0) + rest * reference.pmf(y)
        np.testing.assert_allclose(ours.log_prob(tensor(y)).exp(), pmf, rtol=CLOSE)
        np.testing.assert_allclose(ours.cdf(tensor(y)), share + rest * reference.cdf(y), rtol=CLOSE)
        np.testing.assert_allclose(ours.sf(tensor(y)), rest * reference.sf(y), rtol=CLOSE, atol=1e-300)
        assert ours.zero.item() == pytest.approx(share, rel=CLOSE)


def mp_zero_inflated(y, a, m):
    zero = 1 / (1 + mp.exp(-a))
    log_count = y * mp.log(m) - m - mp.loggamma(y + 1)
    return mp.log(zero * (y == 0) + mp.exp(log_count) / (1 + mp.exp(a)))


def mp_ordered(y, location, first, second):
    def below(cut):
        return 1 / (1 + mp.exp(location - cut))

    return mp.log([below(first), below(second) - below(first), 1 - below(second)][int(y)])


def mp_mixture(y, logit, mean, sigma):
    weight = 1 / (1 + mp.exp(-logit))
    return mp.log((1 - weight) * mp.npdf(y, 0, 1) + weight * mp.npdf(y, mean, sigma))


def mp_categorical(y, first, second):
    logits = [0, first, second]
    return logits[int(y)] - mp.log(sum(mp.exp(logit) for logit in logits))


HARD = {
    "ZeroInflated": (
        mp_zero_inflated,
        lambda a, m: dist.ZeroInflated(dist.Poisson(m), a),
        [
            (y, a, m)
            for y in (0.0, 3.0)
            for a in (-700.0, -40.0, -3.0, 0.3, 5.0, 40.0, 700.0)
            for m in (1e-8, 0.7, 30.0, 900.0)
        ],
    ),
    "Ordered": (
        mp_ordered,
        lambda location, first, second: dist.Ordered(location, torch.stack([first, second])),
        [
            (y, location, 0.25, 0.25 + gap)
            for y in (0.0, 1.0, 2.0)
            for location in (-300.0, -30.0, 0.5, 2.0, 40.0, 600.0)
            for gap in (2.0**-30, 0.5, 2.0, 64.0)  # whose sums are exact
        ],
    ),
    "NormalMixture": (
        mp_mixture,
        lambda logit, mean, sigma: dist.NormalMixture(
            torch.stack([torch.zeros_like(logit), logit]),
            torch.stack([torch.zeros_like(mean), mean]),
            torch.stack([torch.ones_like(sigma), sigma]),
        ),
        [
            (y, logit, 3.0, sigma)
            for y in (-38.0, 0.5, 3.0, 60.0)
            for logit in (-20.0, 0.3, 9.0)
            for sigma in (0.01, 1.5)
        ],
    ),
    "Categorical": (
        mp_categorical,
        lambda first, second: dist.Categorical(logits=torch.stack([torch.zeros_like(first), first, second])),
        [
            (y, first, second)
            for y in (0.0, 1.0, 2.0)
            for first in (-300.0, 0.3, 40.0)
            for second in (-2.0, 41.0)
        ],
    ),
}


def mp_differences(f, value, at):
    """Two central differences of `f`, with 700 digits and a step of 1e-30: exact to dozens of digits.

    `value` is `f(at)`.
    """
    h = mp.mpf("1e-30") * max(abs(at), mp.mpf("1e-9"))
    above, below = f(at + h), f(at - h)
    return float((above - below) / (2 * h)), float((above - 2 * value + below) / h**2)


def derivatives(f, parameters):
    """The value of `f`, and for each parameter its first and second derivative, by autograd."""
    leaves = [tensor(p).requires_grad_() for p in parameters]
    value = f(*leaves)
    first = torch.autograd.grad(value, leaves, create_graph=True)
    second = [
        torch.autograd.grad(g, leaf, retain_graph=True)[0] for g, leaf in zip(first, leaves, strict=True)
    ]
    return value.item(), [(g.item(), h.item()) for g, h in zip(first, second, strict=True)]


@pytest.mark.parametrize("name", HARD)
def test_log_prob_and_its_derivatives_are_exact_in_tails_and_limits(name):
    reference, family, cases = HARD[name]
    with mp.workdps(700):
        for y, *parameters in cases:
            label = str((y, *parameters))
            exact = [mp.mpf(p) for p in parameters]
            value, slopes = derivatives(lambda *p, y=y: family(*p).log_prob(tensor(y)), parameters)
            known = reference(mp.mpf(y), *exact)
            assert value == pytest.approx(float(known), rel=EXACT, abs=1e-300), label
            for i, (first, second) in enumerate(slopes):

                def along(t, i=i, y=y, exact=exact):
                    return reference(mp.mpf(y), *exact[:i], t, *exact[i + 1 :])

                # An error is measured against the scale that the parameter's own size sets.
                p, (slope, bend) = max(abs(parameters[i]), 1e-300), mp_differences(along, known, exact[i])
                assert first == pytest.approx(slope, rel=EXACT, abs=1e-13 / p), label
                assert second == pytest.approx(bend, rel=EXACT, abs=1e-13 / p**2), label


def test_categories_are_torchs_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    codes = torch.arange(50) % 4
    expected = -torch.nn.functional.cross_entropy(logits, codes, reduction="none")
    ours = dist.Categorical(logits=logits)
    torch.testing.assert_close(ours.log_prob(codes.double()), expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(ours.log_prob(codes), expected, rtol=1e-13, atol=1e-15)
    assert ours.mean.isnan().all()


@pytest.mark.parametrize("location", [-9.0, 0.3, 8.0])
def test_ordered_classes_are_steps_of_a_logistic_variable(location):
    cuts = tensor([-1.5, 0.2, 0.9, 4.0])
    ours = dist.Ordered(tensor(location), cuts)
    k = torch.arange(5.0, dtype=torch.float64)
    edges = np.array([-np.inf, *cuts, np.inf])
    lower, upper = st.logistic.cdf(edges, location), st.logistic.sf(edges, location)
    probs = np.where(lower[1:] < 0.5, np.diff(lower), -np.diff(upper))
    np.testing.assert_allclose(ours.probs, probs, rtol=CLOSE)
    np.testing.assert_allclose(ours.log_prob(k).exp(), probs, rtol=CLOSE)
    np.testing.assert_allclose(ours.cdf(k), lower[1:], rtol=CLOSE)
    np.testing.assert_allclose(ours.sf(k), upper[1:], rtol=CLOSE)
    assert ours.mean.item() == pytest.approx((probs * k.numpy()).sum(), rel=CLOSE)
    assert ours.variance.item() == pytest.approx(
        (probs * (k.numpy() - ours.mean.item()) ** 2).sum(), rel=CLOSE
    )


def test_a_mixture_by_scipy():
    logits, means, sigmas = tensor([0.3, -1.0, 2.0]), tensor([-2.0, 0.5, 7.0]), tensor([0.3, 2.0, 1.0])
    ours = dist.NormalMixture(logits, means, sigmas)
    y = np.array([-60.0, -9.0, -2.1, 0.0, 4.0, 8.0, 40.0])
    log_weights = scipy.special.log_softmax(logits)
    parts = st.norm.logpdf(y[:, None], means, sigmas)
    expected = scipy.special.logsumexp(parts + log_weights, axis=1)
    np.testing.assert_allclose(ours.log_prob(tensor(y)), expected, rtol=CLOSE)
    weights = np.exp(log_weights)
    np.testing.assert_allclose(
        ours.cdf(tensor(y)), st.norm.cdf(y[:, None], means, sigmas) @ weights, rtol=CLOSE
    )
    np.testing.assert_allclose(
        ours.sf(tensor(y)), st.norm.sf(y[:, None], means, sigmas) @ weights, rtol=CLOSE
    )
    assert ours.mean.item() == pytest.approx(weights @ means.numpy(), rel=CLOSE)
    second = weights @ (sigmas**2 + means**2).numpy()
    assert ours.variance.item() == pytest.approx(second - ours.mean.item() ** 2, rel=CLOSE)


def test_a_mixture_of_one_is_a_normal():
    y, q = tensor([-30.0, 0.1, 8.0]), tensor([1e-12, 0.3, 1 - 1e-12])
    ours, normal = (
        dist.NormalMixture(tensor([3.0]), tensor([0.5]), tensor([2.0])),
        dist.Normal(tensor(0.5), 2.0),
    )
    for method, points in (("log_prob", y), ("cdf", y), ("sf", y), ("icdf", q)):
        torch.testing.assert_close(
            getattr(ours, method)(points), getattr(normal, method)(points), rtol=1e-12, atol=0.0
        )


def test_a_component_without_weight_leaves_no_trace():
    ours = dist.NormalMixture(tensor([0.0, -math.inf]), tensor([0.5, 99.0]), tensor([2.0, 1e-3]))
    normal, y = dist.Normal(tensor(0.5), 2.0), tensor([-3.0, 99.0])
    torch.testing.assert_close(ours.log_prob(y), normal.log_prob(y), rtol=1e-13, atol=0.0)
    assert ours.icdf(tensor(0.9)).item() == pytest.approx(normal.icdf(tensor(0.9)).item(), rel=1e-12)


def test_a_class_without_width_has_no_probability_and_spoils_no_derivative():
    cuts = tensor([0.3, 0.3]).requires_grad_()
    ours = dist.Ordered(tensor(0.0), cuts)
    assert ours.log_prob(tensor(1.0)).item() == -math.inf
    (slope,) = torch.autograd.grad(ours.log_prob(tensor([0.0, 2.0])).sum(), cuts)
    share = scipy.special.expit(0.3)
    np.testing.assert_allclose(slope, [1 - share, -share], rtol=1e-12)


# Laws


@pytest.mark.parametrize("name", DISCRETE)
def test_probabilities_add_up_to_one(name):
    ours = build(name)
    k = torch.arange(3.0 if name == "Categorical" else 4.0 if name == "Ordered" else 400.0).double()
    probs = ours.log_prob(k).exp()
    assert probs.sum().item() == pytest.approx(1, rel=1e-12)
    if name == "Categorical":
        torch.testing.assert_close(ours.probs, probs)
        return
    torch.testing.assert_close(ours.cdf(k), probs.cumsum(0), rtol=CLOSE, atol=0)
    torch.testing.assert_close(ours.mean, (k * probs).sum(), rtol=CLOSE, atol=0)
    torch.testing.assert_close(ours.variance, ((k - ours.mean) ** 2 * probs).sum(), rtol=CLOSE, atol=0)
    torch.testing.assert_close(ours.cdf(k + 0.5), ours.cdf(k), rtol=0, atol=0)


@pytest.mark.parametrize("name", WITH_CDF)
def test_the_logs_of_the_tails_are_theirs_and_go_on_beyond_the_smallest_number(name):
    ours, y = build(name), values(name)
    torch.testing.assert_close(ours.log_cdf(y), ours.cdf(y).log(), rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(ours.log_sf(y), ours.sf(y).log(), rtol=1e-12, atol=1e-15)
    if name == "NormalMixture":
        deep, normal = tensor(100.0), dist.Normal(tensor(AT[1]), 1.0)
        share = torch.special.expit(-tensor(AT[0])).log()  # the wider component has all of the far tail
        assert ours.log_sf(deep).item() == pytest.approx((share + normal.log_sf(deep)).item(), rel=1e-13)
    else:
        assert (ours.log_cdf(tensor(-1.0)).item(), ours.log_sf(tensor(-1.0)).item()) == (-math.inf, 0.0)
    if name == "Ordered":
        assert (ours.log_cdf(tensor(9.0)).item(), ours.log_sf(tensor(9.0)).item()) == (0.0, -math.inf)
        far = dist.Ordered(tensor(900.0), tensor([0.0, 1.0]))
        assert far.log_cdf(tensor([0.0, 1.0])).tolist() == [-900.0, -899.0]


@pytest.mark.parametrize("name", [name for name in DISCRETE if name != "Categorical"])
def test_icdf_of_counts_is_the_smallest_that_reaches_q(name):
    ours, k = build(name), torch.arange(3.0).double()
    reached = ours.cdf(k)
    torch.testing.assert_close(ours.icdf(reached), k, rtol=0, atol=0)
    torch.testing.assert_close(ours.icdf(reached * (1 + 1e-9)), k + 1, rtol=0, atol=0)
    torch.testing.assert_close(ours.icdf(reached / 2)[:1], tensor([0.0]), rtol=0, atol=0)
    most = 3.0 if name == "Ordered" else math.inf
    assert ours.icdf(tensor([0.0, 1.0])).tolist() == [0.0, most]
    assert (ours.cdf(tensor([-1.0, 1e9])).tolist(), ours.sf(tensor([-1.0, 1e9])).tolist()) == ([0, 1], [1, 0])


def test_the_density_of_a_mixture_is_the_derivative_of_its_cdf():
    ours = build("NormalMixture")
    x = ours.icdf(tensor([1e-9, 0.01, 0.3, 0.6, 0.99])).requires_grad_()
    (slope,) = torch.autograd.grad(ours.cdf(x).sum(), x)
    torch.testing.assert_close(slope, ours.log_prob(x).exp(), rtol=CLOSE, atol=0.0)


@pytest.mark.parametrize("apart", [0.5, 4.0, 1e4])
@pytest.mark.parametrize("sigma", [1e-3, 1.0])
def test_icdf_of_a_mixture_inverts_its_cdf(apart, sigma):
    # Between components that are far apart the distribution function is flat: no derivative leads across.
    ours = dist.NormalMixture(tensor([0.0, 1.0]), tensor([0.0, apart]), tensor([1.0, sigma]))
    q = tensor([1e-12, 0.1, 0.26, 0.27, 0.5, 0.9, 1 - 1e-9])
    x = ours.icdf(q)
    # A quantile near 10⁴ is rounded at 1e-12, a thousandth of a millionth of the narrow component's sigma.
    torch.testing.assert_close(ours.cdf(x), q, rtol=1e-9, atol=0)
    assert (x.diff() > 0).all()
    assert ours.icdf(tensor([0.0, 1.0])).tolist() == [-math.inf, math.inf]


def test_icdf_and_draws_of_a_mixture_have_the_derivatives_of_an_inverse():
    def family(leaves):
        return dist.NormalMixture(*leaves)

    leaves = [tensor(p).requires_grad_() for p in ([0.0, 0.4], [1.1, 5.1], [1.0, 0.3])]
    q = tensor([1e-9, 0.01, 0.3, 0.6, 0.99]).requires_grad_()
    torch.manual_seed(0)
    for x, wants_q in ((family(leaves).icdf(q), True), (family(leaves).rsample((5,)), False)):
        fixed, density = x.detach(), family(leaves).log_prob(x).exp().detach()
        for j in range(5):
            if wants_q:
                (dq,) = torch.autograd.grad(x[j], q, retain_graph=True)
                assert dq[j].item() == pytest.approx(1 / density[j].item(), rel=1e-9)
            dx = torch.autograd.grad(x[j], leaves, retain_graph=True)
            dF = torch.autograd.grad(family(leaves).cdf(fixed)[j], leaves)
            for left, right in zip(dx, dF, strict=True):
                torch.testing.assert_close(left, -right / density[j], rtol=1e-8, atol=1e-12)


@LAW
def test_shapes_and_expansion(name):
    ours, y = build(name, (4,)), values(name)[0].expand(4)
    one = build(name)
    assert ours.batch_shape == (4,)
    assert ours.event_shape == ()
    wide = one.expand((3, 4))
    assert wide.batch_shape == (3, 4)
    assert wide.expand((2, 3, 4)).batch_shape == (2, 3, 4)
    assert wide.sample().shape == (3, 4)
    assert wide.sample((5,)).shape == (5, 3, 4)
    torch.testing.assert_close(wide.log_prob(y), one.log_prob(y).expand(3, 4))
    assert wide.mean.shape == wide.variance.shape == (3, 4)
    assert wide.log_prob(values(name)[:, None, None]).shape == (len(values(name)), 3, 4)
    assert wide.has_rsample == ours.has_rsample == (name == "NormalMixture")
    if name in WITH_CDF:
        assert wide.cdf(y).shape == wide.sf(y).shape == wide.icdf(y * 0 + 0.3).shape == (3, 4)
        torch.testing.assert_close(wide.cdf(y), one.cdf(y).expand(3, 4))
    assert isinstance(ours, TorchDistribution | type(dist.Categorical(tensor([0.5, 0.5]))))


def test_parameters_of_a_row_stay_with_their_row():
    cuts = tensor([[0.0, 1.0], [0.5, 3.0]])
    ours = dist.Ordered(tensor([0.2, 1.0]), cuts)
    y = tensor([[0.0, 1.0], [2.0, 2.0]])
    alone = [dist.Ordered(tensor(m), c) for m, c in zip((0.2, 1.0), cuts, strict=True)]
    for method in ("log_prob", "cdf", "sf"):
        expected = torch.stack([getattr(fn, method)(y[:, i]) for i, fn in enumerate(alone)], -1)
        torch.testing.assert_close(getattr(ours, method)(y), expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(ours.probs, torch.stack([fn.probs for fn in alone]), rtol=1e-14, atol=0)
    torch.testing.assert_close(ours.mean, torch.stack([fn.mean for fn in alone]), rtol=1e-14, atol=0)
    base = dist.Poisson(tensor([0.5, 3.0]))
    inflated = dist.ZeroInflated(base, tensor([[-1.0], [2.0]]))
    assert inflated.batch_shape == inflated.mean.shape == (2, 2)
    one = dist.ZeroInflated(dist.Poisson(tensor(3.0)), tensor(2.0))
    torch.testing.assert_close(inflated.log_prob(tensor(0.0))[1, 1], one.log_prob(tensor(0.0)))
    torch.testing.assert_close(inflated.variance[1, 1], one.variance)


@LAW
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_samples_follow_the_law_and_the_dtype(name, dtype):
    torch.manual_seed(1)
    ours = SMALL[name](*(torch.tensor(p, dtype=dtype) for p in AT))
    draws = ours.sample((20_000,))
    if name != "NormalMixture":
        assert draws.dtype == dtype
    exact = build(name)
    if name == "NormalMixture":
        assert st.kstest(draws.numpy(), lambda y: exact.cdf(tensor(y)).numpy()).pvalue > CHANCE
        return
    k = torch.arange(float(draws.max()) + 1).double()
    expected = exact.log_prob(k).exp().numpy()
    counts = np.bincount(draws.long(), minlength=len(k))
    often = expected * len(draws) > 5
    observed = [*counts[often], counts[~often].sum()]
    rest = 1 - expected[often].sum()
    wanted = np.array([*expected[often], rest]) * len(draws)
    keep = wanted > 1e-6
    assert st.chisquare(np.array(observed)[keep], wanted[keep]).pvalue > CHANCE


@LAW
def test_log_prob_can_be_traced_to_a_graph_without_branches_on_data(name):
    y = values(name)

    def log_prob(a, m):
        return SMALL[name](a, m).log_prob(y)

    with torch.autograd.set_grad_enabled(False):
        torch.distributions.Distribution.set_default_validate_args(False)
        try:
            graph = make_fx(log_prob)(tensor(0.1), tensor(0.2))
        finally:
            torch.distributions.Distribution.set_default_validate_args(True)
    torch.testing.assert_close(graph(*map(tensor, AT)), log_prob(*map(tensor, AT)), rtol=1e-14, atol=0)


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: dist.Ordered(0.0, tensor([1.0, 0.9])), "to satisfy the constraint"),
        (lambda: dist.Ordered(math.nan, tensor([0.0, 1.0])), "to satisfy the constraint"),
        (lambda: dist.ZeroInflated(dist.Poisson(tensor(1.0)), math.nan), "to satisfy the constraint"),
        (lambda: dist.NormalMixture(*map(tensor, ([0.0], [1.0], [0.0]))), "to satisfy the constraint"),
        (lambda: dist.NormalMixture(*map(tensor, ([0.0], [1.0], [1.0, 1.0]))), "the same last dimension"),
        (lambda: dist.NormalMixture(*map(tensor, (0.0, 1.0, 1.0))), "the same last dimension"),
    ],
)
def test_impossible_parameters_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in DISCRETE for value in (-1.0, 0.5, math.nan)]
    + [("Categorical", 3.0), ("Ordered", 4.0), ("NormalMixture", math.nan)],
)
def test_values_outside_the_support_have_no_density(name, value):
    with pytest.raises(ValueError, match="within the support"):
        build(name).log_prob(tensor(value))


@pytest.mark.parametrize("name", WITH_CDF)
def test_icdf_wants_probabilities(name):
    with pytest.raises(ValueError, match="between 0 and 1"):
        build(name).icdf(tensor(1.5))


@LAW
def test_families_declare_what_pyro_asks_for(name):
    family = build(name)
    assert family.arg_constraints
    assert isinstance(family.support, constraints.Constraint)
    assert family.support.is_discrete == (name in DISCRETE)
    assert type(family).__doc__


def test_the_tails_of_a_compound_evaluate_those_of_its_base_once(monkeypatch):
    calls, whole = [], dist.NegativeBinomial2._log_tails

    def counted(self, value):
        calls.append(value)
        return whole(self, value)

    monkeypatch.setattr(dist.NegativeBinomial2, "_log_tails", counted)
    lower, upper = dist.ZeroInflated(dist.NegativeBinomial2(3.0, 0.5), 0.0)._log_tails(torch.arange(4.0))
    assert len(calls) == 1
    assert torch.allclose(lower.exp() + upper.exp(), torch.ones(4))
