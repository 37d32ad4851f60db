"""A request held against a policy, key by key: what is asked, what the site takes, and which code the rest is refused by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from mpssl_fed.codes import Code
from mpssl_fed.config import Config
from mpssl_fed.config.leaves import Leaf, flat
from mpssl_fed.names import TIMM_NAME
from mpssl_fed.privacy.policy_file import SCOPES, Policy
from mpssl_fed.privacy.policy_settings import LEAVES, Accepted, by_default, may_be_said, read_settings, shown
from mpssl_fed.reply_metrics import CONFUSION

MOST_SIGMA = 1e6
"""More noise than any plan has; a larger number is none."""


@dataclass(frozen=True)
class Request:
    """What a server asks of a site. values: every key of the message's config, dotted. sigma: smallest of the solved plan;
    parameters: entries of the classifier; generator_sha256: state hash of the generator this site would load; metrics: numbers
    asked for beside the weights. None: not known yet, or none."""

    values: Mapping[str, Any]
    sigma: float | None = None
    parameters: int | None = None
    generator_sha256: str | None = None
    metrics: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        config: Config,
        sigma: float | None = None,
        parameters: int | None = None,
        generator_sha256: str | None = None,
        metrics: tuple[str, ...] = (),
    ) -> Request:
        """Return what ``config`` asks."""
        return cls(flat(config.dump(), Config), sigma, parameters, generator_sha256, metrics)

    @property
    def scope(self) -> str:
        """``off``, ``labelled-step`` or ``end-to-end``."""
        return str(self.values["privacy.scope"])

    @property
    def method(self) -> str:
        """The method's name, or source+loss for a pair without one."""
        values = self.values
        return str(values["method.name"] or f"{values['method.source']}+{values['method.loss']}")

    @property
    def anchored(self) -> bool:
        """Whether the run has an anchor."""
        return bool(self.values["federation.anchor.weight"])

    @property
    def generator(self) -> str | None:
        """The generator that source, warm start or anchor draw from; None where nothing does."""
        values = self.values
        source, warm = values["method.source"] not in ("none", "real"), values["warm_start.part"] != "none"
        return str(values["generator.name"]) if source or warm or self.anchored else None

    @property
    def synthetic_mb(self) -> float | None:
        """MB of synthetic images that a site keeps: a buffer or bank in 8 bits, the anchor's set in 32.
        None without a task."""
        values = self.values
        size, channels = values["data.task.size"], values["data.task.channels"]
        if size is None or channels is None:
            return None
        source = values["method.source"] not in ("none", "real")
        kept = (values["method.bank"] or values["method.buffer"] * values["method.batch"]) if source else 0
        images = kept + (4 * values["federation.anchor.images"] if self.anchored else 0)
        return float(images * channels * size**2 / 1e6)


Verdict = Literal["taken", "ignored", "unused", "elsewhere", "open", "refused"]


@dataclass(frozen=True)
class Row:
    """One key, or one number that follows from several. verdict ``elsewhere``: held against an option of ``site run`` when the
    message comes; ``unused``: the request makes no use of the key; ``open``: not known here. text: why it is refused, for the
    operator of the site alone."""

    key: str
    who: Literal["server", "site", "ignored"]
    asked: Any
    accepted: str
    verdict: Verdict
    code: Code | None = None
    text: str = ""
    changed: bool = False


def table(policy: Policy, request: Request) -> tuple[Row, ...]:
    """Return a row for every key of the schema, in its order, then those of the numbers that follow from several keys."""
    said = read_settings(policy.settings) | _typed(policy)
    rows = [_row(policy, request, leaf, said.get(leaf.key)) for leaf in LEAVES.values()]
    return (*rows, *_derived(policy, request))


def to_agree(policy: Policy, request: Request) -> dict[str, Any]:
    """Return what an owner would add to ``settings`` to take the request, as far as settings can: key -> the value asked.

    A value that is itself a list stands in a list, or each of its items would be taken for a value.
    """
    refused = [row for row in table(policy, request) if row.verdict == "refused" and row.key in LEAVES]
    asked = {row.key: row.asked for row in refused if may_be_said(row.key, row.asked)}
    return {key: [value] if isinstance(value, list | tuple) else value for key, value in asked.items()}


def _typed(policy: Policy) -> dict[str, Accepted]:
    """Return what the policy's own fields say of single keys."""

    def to(key: str, high: float) -> Accepted:
        return Accepted(LEAVES[key].mark.low, high)

    said = {
        "privacy.scope": Accepted(values=SCOPES[SCOPES.index(policy.scope) :]),
        "privacy.epsilon": to("privacy.epsilon", policy.max_epsilon),
        "privacy.delta": to("privacy.delta", policy.delta),
        "privacy.unit": Accepted(values=(policy.unit,)),
        "privacy.trust": Accepted(values=("site", "sum") if policy.trust == "sum" else ("site",)),
        "privacy.sample_rate": to("privacy.sample_rate", policy.max_sample_rate),
        "federation.rounds": to("federation.rounds", policy.max_rounds),
        "federation.local_steps": to("federation.local_steps", policy.max_local_steps),
        "federation.evaluate_at_sites.times": to("federation.evaluate_at_sites.times", policy.max_evaluations),
        "generator.name": Accepted(values=tuple(generator.name for generator in policy.generators)),
    }
    if policy.secure_aggregation.required:
        said["federation.aggregation"] = Accepted(values=("secure",))
    if policy.min_clip is None and policy.max_clip is None:
        return said
    given = read_settings(policy.settings)
    for key in (key for key in LEAVES if key.startswith("privacy.clip.") and key not in given):
        mark = LEAVES[key].mark
        said[key] = Accepted(policy.min_clip or mark.low, policy.max_clip or mark.high)
    return said


def _row(policy: Policy, request: Request, leaf: Leaf, said: Accepted | None) -> Row:
    key, mark, asked = leaf.key, leaf.mark, request.values[leaf.key]
    taken = Accepted(values=policy.methods) if mark.code == "method" else said or by_default(leaf)
    row = Row(key, mark.who, asked, str(taken), "taken", changed=asked != leaf.default)
    unheld = _unheld(request, leaf)
    if unheld:
        return replace(row, accepted=unheld[1], verdict=unheld[0], changed=row.changed and unheld[0] != "unused")
    if _names_code(key, asked):
        return _refused(row, Code.PATH, "a path or an import from outside is never followed")
    if mark.code == "method":  # a name, or source and loss together: told once
        listed = request.method in policy.methods and request.values["method.source"] != "real"
        refused = key == "method.name" and not listed
        return _refused(replace(row, asked=request.method), Code.METHOD, _cure(leaf)) if refused else row
    return row if taken.takes(asked) else _refused(row, Code(mark.code), _cure(leaf))


def _unheld(request: Request, leaf: Leaf) -> tuple[Verdict, str] | None:
    """Return (verdict, what is accepted) of a key that is not held against the policy; None for one that is."""
    key, mark = leaf.key, leaf.mark
    if mark.who == "ignored":
        return "ignored", "any"
    of_privacy = key.startswith("privacy.") and key != "privacy.scope" and request.scope == "off"
    of_task = key.startswith("data.task.") and request.values["data.task.classes"] is None
    of_generator = key == "generator.name" and request.generator is None
    if of_privacy or of_task or of_generator:
        return "unused", "any"
    return ("elsewhere", f"the site's {mark.owner}") if mark.owner.startswith("--") and not mark.fixed else None


def _cure(leaf: Leaf) -> str:
    if leaf.mark.fixed:
        return leaf.mark.why
    return f"to agree, change {leaf.mark.owner} in the policy" if leaf.mark.owner else "to agree, add it to the policy's settings"


def _refused(row: Row, code: Code, cure: str) -> Row:
    text = f"{row.key}={shown(row.asked)} is asked for, this site takes {row.accepted}; {cure}"
    return replace(row, verdict="refused", code=code, text=text)


def _names_code(key: str, asked: Any) -> bool:
    """Whether the name of a part looks like a file or an import."""
    named = ("model.name", "generator.name", "method.source", "method.loss")
    if key == "model.name" and TIMM_NAME.fullmatch(str(asked)):
        return False
    return key in named and any(mark in str(asked) for mark in (":", "/", "\\", ".."))


def _derived(policy: Policy, request: Request) -> Iterator[Row]:
    """Yield the rows of what no single key says."""
    values = request.values
    steps = values["federation.rounds"] * values["federation.local_steps"]
    most = Accepted(0, policy.max_steps)
    yield _number("rounds x local_steps", steps, most, Code.STEPS, "max_steps")
    if request.scope != "off":
        yield _number("smallest sigma", request.sigma, Accepted(policy.min_sigma, MOST_SIGMA), Code.SIGMA, "min_sigma")
        if values["privacy.trust"] == "sum":
            yield _honest(policy, values)
    if values["federation.evaluate_at_sites.times"]:
        classes = None if values["data.task.classes"] is None else len(values["data.task.classes"])
        yield _number("classes of a table", classes, Accepted(0, policy.max_table_classes), Code.TABLE_SIZE, "max_table_classes")
    yield _number("model size", request.parameters, Accepted(0, policy.max_parameters), Code.MODEL_SIZE, "max_parameters")
    memory = Accepted(0, policy.max_synthetic_mb)
    yield _number("synthetic images, MB", request.synthetic_mb, memory, Code.SERVER_KEY, "max_synthetic_mb")
    if request.generator in {generator.name for generator in policy.generators}:
        yield _generator(policy, request)
    exact_table = request.scope == "off" and values["federation.evaluate_at_sites.times"]
    for name in (*(name for name in request.metrics if name != CONFUSION), *((CONFUSION,) if exact_table else ())):
        row = Row(f"metric {name}", "server", name, str(Accepted(values=policy.metrics)), "taken")
        yield row if name in policy.metrics else _refused(row, Code.METRIC, "to agree, change metrics in the policy")


def _honest(policy: Policy, values: Mapping[str, Any]) -> Row:
    """Return the row of the sites whose noise a run counts on, beside those that the policy's floor of a sum leaves."""
    fewest, most = values["federation.secure.min_sites"], values["federation.secure.colluding"]
    asks = policy.secure_aggregation
    left = Accepted(0, max(fewest, asks.min_sites) - max(most, asks.colluding))
    return _number("honest sites of a sum", fewest - most, left, Code.TRUST, "secure_aggregation.colluding")


def _number(name: str, asked: float | None, taken: Accepted, code: Code, owner: str) -> Row:
    row = Row(name, "server", asked, str(taken), "taken")
    if asked is None:
        return replace(row, verdict="open")
    return row if taken.takes(asked) else _refused(row, code, f"to agree, change {owner} in the policy")


def _generator(policy: Policy, request: Request) -> Row:
    hashes = [generator.identity for generator in policy.generators if generator.name == request.generator]
    row = Row("generator SHA-256", "site", request.generator_sha256, ", ".join(hashes), "taken")
    if request.generator_sha256 is None:
        return replace(row, verdict="open")
    return row if request.generator_sha256 in hashes else _refused(row, Code.GENERATOR, "its files are others than the policy's")
