"""What releases cost: epsilon of a merged history of Poisson-subsampled Gaussians, and the sigma that meets an epsilon.

A history is {(sigma, q): n}: n releases, each with its own Poisson draw of rate q and Gaussian noise of sigma times its
sensitivity, under add-or-remove-one neighbours. Several releases on one draw are not such a history.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mpssl_fed.config.secure import MOST_SITES
from mpssl_fed.errors import UserError
from mpssl_fed.privacy.shared.history import History, Key, shared_steps
from mpssl_fed.privacy.shared.noise import EXPOSED, rounding_distance

if TYPE_CHECKING:
    from opacus.accountants.analysis import prv

ROUNDING = 1e-3
"""Share of delta that pays for rounding shared noise to integers, and for what a draw of few neighbours may tell."""

ORDERS: tuple[float, ...] = (
    *(1 + k / 10 for k in range(1, 40)),
    *range(5, 65),
    *(72, 80, 96, 112, 128, 160, 192, 256, 384, 512),
)
"""Renyi orders of :func:`rdp_epsilon`."""

LARGE_ORDERS: tuple[int, ...] = tuple(round(512 * 1.25**k) for k in range(1, 26))  # to 135,525
"""Orders beyond, where the last of :data:`ORDERS` is the best: below an epsilon of about 0.05 at delta 1e-5."""

EPSILON_ERROR = 0.01
"""Slack of PRV: what it returns is an upper bound at most about this much above the exact epsilon; a thousandth of it from
epsilon 10 on, a tenth below 0.1."""

LEAST_DELTA_OF_PRV = 1e-9
"""Below it the Fourier transform's rounding errors, of 64 bits, are no longer small beside delta: Renyi composition alone.
Measured against exact values: errors of 0.003 in epsilon at 1e-9, of 0.06 at 3e-11 after 100,000 releases."""

MAX_POINTS = 1 << 22
SIGMA_RANGE = (0.2, 1e5)


def merge(*histories: History | Iterable[tuple[float, float, int]]) -> dict[Key, int]:
    """Return the histories as one, equal keys added up; a history may also be a list of (sigma, q, n)."""
    total: dict[Key, int] = {}
    for history in histories:
        items = history.items() if isinstance(history, Mapping) else (((s, q), n) for s, q, n in history)
        for given, n in items:
            sigma, q, *who = given
            if not (sigma > 0 and math.isfinite(sigma) and 0 < q <= 1 and n >= 0):
                raise ValueError(f"a release needs sigma > 0, 0 < q <= 1 and n >= 0, got {sigma}, {q}, {n}")
            if n:
                key: Key = (float(sigma), float(q), who[0]) if who else (float(sigma), float(q))
                total[key] = total.get(key, 0) + int(n)
    return total


def rdp(history: History, orders: Sequence[float] = ORDERS) -> NDArray[np.float64]:
    """Return the Renyi divergence bound at each order, shape [len(orders)] (Mironov, Talwar, Zhang, arXiv 1908.10530).

    Shared noise is of the discrete Gaussian, for which it holds at whole orders: others take the next whole one, which is no less.
    """
    total = np.zeros(len(orders))
    for key, n in merge(history).items():
        if len(key) == 3:
            sigma, q, who = key
            total += n * np.array([_one_release(sigma * math.sqrt(who.honest), q, math.ceil(order)) for order in orders])
        else:
            total += n * np.array([_one_release(*key, order) for order in orders])
    return total


@lru_cache(maxsize=1 << 17)
def _one_release(sigma: float, q: float, order: float) -> float:
    from opacus.accountants.analysis.rdp import compute_rdp  # here: two seconds that a run without privacy need not spend

    if order > ORDERS[-1]:
        return _large_order(sigma, q, int(order))
    return float(compute_rdp(q=q, noise_multiplier=sigma, steps=1, orders=float(order)))


def _large_order(sigma: float, q: float, order: int) -> float:
    """Return the Renyi divergence of one release at a whole order of any size: the binomial sum of section 3.3 of
    arXiv 1908.10530, in logarithms."""
    from scipy.special import logsumexp

    if q == 1:
        return order / (2 * sigma**2)
    k = np.arange(order + 1)
    terms = _log_binomials(order) + k * math.log(q) + (order - k) * math.log1p(-q) + k * (k - 1.0) / (2 * sigma**2)
    return max(0.0, float(logsumexp(terms))) / (order - 1)


@lru_cache(maxsize=64)
def _log_binomials(order: int) -> NDArray[np.float64]:
    from scipy.special import gammaln

    k = np.arange(order + 1.0)
    found: NDArray[np.float64] = gammaln(order + 1.0) - gammaln(k + 1) - gammaln(order - k + 1)
    return found


def conversion(order: float, delta: float) -> float:
    """Return what turning a Renyi bound at ``order`` into (epsilon, delta) adds to it (Canonne et al., arXiv 2004.00010,
    proposition 12)."""
    return math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)


def best_order(history: History, delta: float, orders: Sequence[float]) -> tuple[float, float]:
    """Return the least of rdp + conversion over ascending ``orders``, of which some are whole, and the order where it stands.

    Orders that are not whole cost a hundred times as much and are looked at only beside the best whole one. Nothing is lost:
    (a - 1) times the sum is convex in the order a (its Renyi part is, as every log-moment; the rest has the second derivative
    1 / (a - 1) - 1 / a), so the sum itself falls to its least value and rises after it.
    """
    whole = [order for order in orders if order == int(order)]
    at_whole = _converted(history, delta, whole)
    least, best = at_whole.min(), whole[int(at_whole.argmin())]
    margin = 1e-6 * (1 + abs(least))  # far beyond rounding
    worse = [order for order, value in zip(whole, at_whole, strict=True) if value > least + margin]
    before = max((order for order in worse if order < best), default=0.0)
    after = min((order for order in worse if order > best), default=math.inf)
    near = [order for order in orders if before < order < after]
    found = _converted(history, delta, near)
    return float(found.min()), near[int(found.argmin())]


def _converted(history: History, delta: float, orders: Sequence[float]) -> NDArray[np.float64]:
    added: NDArray[np.float64] = np.array([conversion(order, delta) for order in orders])
    return rdp(history, orders) + added


def rdp_epsilon(history: History, delta: float) -> float:
    """Return the epsilon that Renyi composition gives at the best of :data:`ORDERS` and, if that is the last, beyond them; 0 for
    an empty history. Above the exact one by 3 to 15 %, more where sigma is below 1 or releases are few.

    With shared noise at whole orders, :data:`ROUNDING` of delta set aside; infinity where that does not pay for the rounding.
    """
    if not merge(history):
        return 0.0
    if shared_steps(history):
        paid = ROUNDING * delta
        found = _renyi_epsilon(history, delta - paid, tuple(order for order in ORDERS if order == int(order)))
        return found if rounding_pays(history, found, paid) else math.inf
    return _renyi_epsilon(history, delta, ORDERS)


def rounding_pays(history: History, epsilon: float, paid: float) -> bool:
    """Whether ``paid`` of delta covers what rounding shared noise to integers costs at ``epsilon``: (1 + e^epsilon) times the total
    distance of all its releases (:mod:`mpssl_fed.privacy.shared.noise`). In fleets so large that sites have few neighbours, also
    the chance in each of them that parts of a sum can be told."""
    apart = sum(rounding_distance(n, key[2].honest) for key, n in history.items() if len(key) == 3)
    told = sum(n * EXPOSED for key, n in history.items() if len(key) == 3 and key[2].sites > MOST_SITES)
    return (1 + math.exp(min(epsilon, 700.0))) * apart + told <= paid


def _renyi_epsilon(history: History, delta: float, orders: Sequence[float]) -> float:
    best, order = best_order(history, delta, orders)
    if order == ORDERS[-1]:
        for larger in LARGE_ORDERS:
            value = float(_converted(history, delta, (larger,))[0])
            if value >= best:
                break
            best = value
    return max(0.0, best)


def epsilon(history: History, delta: float) -> float:
    """Return an upper bound on the epsilon of ``history`` at ``delta``, within about 0.01 of the exact one (a tenth below 0.1).

    Numerical composition of privacy random variables (Gopi et al., arXiv 2106.02848, Opacus' code); Renyi composition where that
    fails, is too large, or is the smaller bound, and alone below a delta of 1e-9 or as soon as noise is shared. Never the
    central-limit (GDP) estimate: it reports too little.
    """
    return trajectory([history], delta)[0]


def trajectory(histories: Sequence[History], delta: float) -> list[float]:
    """Return :func:`epsilon` of each of several histories that grow: the last one holds every kind of release.

    All are composed on the grid of the last, whose error bounds are the widest, so each costs a few Fourier transforms.
    """
    if not 0 < delta < 1:
        raise ValueError(f"delta must lie in (0, 1), got {delta}")
    merged = [merge(history) for history in histories]
    return list(_trajectory(tuple(tuple(sorted(history.items())) for history in merged), delta))


_Items = tuple[tuple[Key, int], ...]


@lru_cache(maxsize=1024)
def _trajectory(histories: tuple[_Items, ...], delta: float) -> tuple[float, ...]:
    whole = dict(histories[-1])
    by_renyi = [rdp_epsilon(dict(history), delta) for history in histories]
    if delta < LEAST_DELTA_OF_PRV or not by_renyi[-1] or shared_steps(whole):  # integers' noise has no PRV here
        return tuple(by_renyi)
    error = max(min(EPSILON_ERROR, by_renyi[-1] / 10), by_renyi[-1] / 1000)
    with _quiet():
        try:
            discrete = _discretise(whole, delta, error)
        except RuntimeError:  # opacus issue 601
            return tuple(by_renyi)
        return tuple(
            min(bound, _compose(discrete, dict(history), delta, error)) for bound, history in zip(by_renyi, histories, strict=True)
        )


def _discretise(whole: dict[Key, int], delta: float, error: float) -> dict[Key, prv.DiscretePRV]:
    """Return each kind of release as a discrete privacy random variable on one grid that is fit for ``whole``."""
    from opacus.accountants.analysis import prv

    if not whole:
        return {}
    variables = {key: prv.PoissonSubsampledGaussianPRV(key[1], key[0]) for key in whole}
    half = _safe_half(whole, error, delta / 1000)
    mesh = error / math.sqrt(sum(whole.values()) * math.log(12_000 / delta) / 2)
    points = 1 << math.ceil(math.log2(2 * half / mesh + 4))  # a power of two: the transforms are quick, the domain wider
    if points > MAX_POINTS:
        raise RuntimeError(f"{points} points are too many")
    half = mesh * (points / 2 - 1.5)
    domain = prv.Domain.create_aligned(-half, half, mesh)
    return {
        key: prv.discretize(prv.TruncatedPrivacyRandomVariable(variable, domain.t_min, domain.t_max), domain)
        for key, variable in variables.items()
    }


def _safe_half(whole: dict[Key, int], error: float, delta: float) -> float:
    """Return half the width of a grid that is fit for ``whole`` (remark 5.6 of arXiv 2106.02848): what Opacus'
    `compute_safe_domain_size` returns, without the orders that cannot be the best."""
    from opacus.accountants import RDPAccountant

    orders = sorted(RDPAccountant.DEFAULT_ALPHAS)
    least = max(best_order({kind: 1}, delta / (8 * sum(whole.values())), orders)[0] for kind in whole)
    return max(best_order(whole, delta / 4, orders)[0], least, error) + 3


def _compose(
    discrete: dict[Key, prv.DiscretePRV],
    history: dict[Key, int],
    delta: float,
    error: float,
) -> float:
    """Return PRV's upper bound on the epsilon of ``history``; infinity where it finds none."""
    from opacus.accountants.analysis import prv

    if not history:
        return 0.0
    try:
        composed = prv.compose_heterogeneous([discrete[key] for key in history], list(history.values()))
        return max(0.0, float(composed.compute_epsilon(delta, delta / 1000, error)[2]))
    except (RuntimeError, ValueError):  # opacus issue 601, and a delta below the rounding errors of the grid
        return math.inf


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what Opacus says of its own search: log(0) at q = 1, and orders at the end of its grid."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def sigma_bound(history_at: Callable[[float], History], target: float, delta: float) -> float:
    """Return a sigma at which the Renyi bound meets ``target``: within 0.2 % no less than what :func:`solve_sigma` returns, and
    found without composing anything numerically. UserError as there."""
    from scipy.optimize import brentq

    low, high = SIGMA_RANGE
    least = min(conversion(order, delta) for order in (*ORDERS, *LARGE_ORDERS))
    if target <= least:
        raise UserError(
            f"privacy.epsilon={target:g} at delta={delta:g} is less than the accounting can vouch for, whatever the noise; set "
            f"privacy.epsilon to {2 * least:.1g} or more, or a larger privacy.delta"
        )
    if rdp_epsilon(history_at(high), delta) > target:
        raise UserError(
            f"privacy.epsilon={target:g} at delta={delta:g} cannot be met by any noise multiplier up to {high:g}: plan fewer "
            "rounds or steps, a smaller sample_rate, or a larger epsilon"
        )
    if rdp_epsilon(history_at(low), delta) <= target:
        return low
    # quick and never below what we charge, so it brackets the search from above
    args = (history_at, rdp_epsilon, target, delta)
    return math.exp(brentq(_excess, math.log(low), math.log(high), args, xtol=1e-4)) * 1.001


def _excess(
    log_sigma: float, history_at: Callable[[float], History], price: Callable[[History, float], float], target: float, delta: float
) -> float:
    return math.log(max(price(history_at(math.exp(log_sigma)), delta), 1e-300) / target)


def solve_sigma(history_at: Callable[[float], History], target: float, delta: float) -> float:
    """Return the smallest sigma, to 0.1 %, rounded up to 4 digits, whose history costs at most ``target`` epsilon.

    ``history_at(sigma)`` is the whole plan at that sigma; its epsilon must fall as sigma grows. Never below 0.2, where
    epsilon is beyond use. UserError when no sigma below 1e5 meets the target, or no accounting could vouch for it.
    """
    from scipy.optimize import brentq

    low, high = SIGMA_RANGE[0], sigma_bound(history_at, target, delta)
    if high == low:
        return low
    start = high
    while start > low and epsilon(history_at(start), delta) <= target:
        high, start = start, max(low, 0.85 * start)
    if epsilon(history_at(start), delta) <= target:
        return _round_up(start)
    sigma = _round_up(math.exp(brentq(_excess, math.log(start), math.log(high), (history_at, epsilon, target, delta), xtol=2e-4)))
    while epsilon(history_at(sigma), delta) > target:
        sigma = _round_up(sigma * 1.0005)
    return sigma


def _round_up(sigma: float) -> float:
    digits = 3 - math.floor(math.log10(sigma))
    scale: float = 10**digits
    return round(math.ceil(sigma * scale) / scale, max(digits, 0))
