"""What was measured and made: audits, refusals, generator, weights, versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import mpssl_fed
from mpssl_fed.codes import Code
from mpssl_fed.dossier.facts import Fact, Section, Source, absent, blank, leaves, of_table, word
from mpssl_fed.dossier.published import quote
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.weights import header
from mpssl_fed.names import shown
from mpssl_fed.report.terms import uses_generator
from mpssl_fed.runs.reader import CONFIG, MANIFEST, METRICS, read_json

EMBEDDED = "mpssl_fed/generators/embedded"
INTERVAL = {"value", "low", "high"}
LONGEST_LICENCE = 80
OF_A_RUN = {
    "run_id": "run",
    "status": "status",
    "created": "started",
    "finished": "finished",
    "error": "error",
    "config_sha256": "SHA-256 of the config",
    "protocol": "protocol",
    "method_version": "version of the method",
    "platform": "platform",
    "cuda": "CUDA device",
    "held_out": "held-out images",
    "subjects": "subjects",
    "result.test_accuracy": "accuracy after the last round",
    "result.test_balanced_accuracy": "balanced accuracy after the last round",
    "result.test_auroc": "AUROC after the last round",
    "result.test_loss": "loss after the last round",
}
MEANS = {code.value: code.means for code in Code}


def audits(subject: Subject) -> Section:
    """Return what audits proved beside what is claimed, intervals included."""
    facts: list[Fact] = []
    for site, file in subject.audits:
        of, name, content = f"site {site}, " if site else "", subject.name(file), subject.audit(file)
        for key, value in leaves(content["facts"]):
            facts.append(Fact(f"{of}audit: {shown(key)}", word(value), Source(name, f"facts.{key}")))
        for audit, part in content["audits"].items():
            facts += _lines(of, audit, part["lines"], name)
            for key, one in _intervals(part.get("numbers"), f"audits.{audit}.numbers"):
                words = f"{one['value']} [{one['low']}, {one['high']}]"
                facts.append(Fact(f"{of}{shown(key.removeprefix('audits.'))}, with its interval", words, Source(name, key)))
    if not facts and subject.deployed:
        facts = [absent("audit", "a deployment's sites keep theirs: `mpssl-fed audit CONFIG.yaml --data IMAGES --name SITE` there")]
    elif not facts:
        how = "mpssl-fed audit RUN" if subject.is_run else "mpssl-fed audit CONFIG.yaml --data IMAGES --name SITE"
        facts = [absent("audit", f"no audit was run: `{how}`")]
    note = "An audit attacks the run's own mechanism. It can refute an epsilon, never prove one."
    return Section("Audits, beside the claims", note, tuple(facts), (), (quote("Audits"),))


def _lines(of: str, audit: str, lines: list[dict[str, Any]], file: str) -> Iterator[Fact]:
    for index, line in enumerate(lines):
        key, name = f"audits.{audit}.lines.{index}", f"{of}{shown(audit)}, {shown(line['audit'].strip())}"
        said = {"claimed": "epsilon claimed", "lower_bound": "epsilon proved from below", "success": "measured"}
        for part, what in said.items():
            if line.get(part) not in (None, ""):
                yield Fact(f"{name}: {what}", word(line[part]), Source(file, f"{key}.{part}"))
        if line.get("contradicts") is not None:
            yield Fact(f"{name}: contradicts the claim", word(line["contradicts"]), Source(file, f"{key}.contradicts"))


def _intervals(content: Any, key: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (key, estimate) of every {"value", "low", "high"} in the numbers of an audit."""
    if isinstance(content, Mapping) and content.keys() >= INTERVAL:
        yield key, content
    elif isinstance(content, Mapping):
        for name, value in content.items():
            yield from _intervals(value, f"{key}.{name}")
    elif isinstance(content, list):
        for index, value in enumerate(content):
            yield from _intervals(value, f"{key}.{index}")


def refusals(subject: Subject) -> Section:
    """Return how often who was asked, answered or refused, by code."""
    facts: list[Fact] = []
    if subject.rounds:
        counts = {"sites_asked": "asked", "sites_answered": "answered", "missing": "missing or late"}
        lines = [one.to_json() for one in subject.rounds]
        facts += [
            Fact(f"sites {name}, all rounds", word(sum(line[key] for line in lines)), Source(METRICS, f"sum.{key}"))
            for key, name in counts.items()
        ]
        refused: Counter[str] = Counter()
        for one in subject.rounds:
            refused.update(one.rejected)
        for code, n in sorted((+refused).items()):
            means = MEANS.get(code, "no code of this version")
            facts.append(Fact(f"refused with {shown(code)} ({means})", word(n), Source(METRICS, f"sum.rejected.{code}")))
        if not +refused:
            facts.append(Fact("refused", word(0), Source(METRICS, "sum.rejected")))
    elif subject.is_run:
        facts = [absent("rounds", f"{METRICS} holds none yet")]
    else:
        facts = [absent("refusals", "no file of a site keeps them: `mpssl-fed site status` tells those of a running daemon")]
    note = "A code is all that either side learns of a refusal; it carries no value."
    return Section("Who refused what", note, tuple(facts))


def made_of(subject: Subject) -> Section:
    """Return generator and weights, by SHA-256 and licence."""
    facts = [*_generator(subject), *_policy_generators(subject)]
    if subject.is_run:
        model = header(subject.path)
        if model is None:
            facts.append(absent("weights", "model.safetensors is written when the last round is done"))
        else:
            facts.append(Fact("weights: SHA-256", model.sha256, Source(model.file, "sha256")))
            facts += [
                Fact(f"weights: {shown(key)}", word(value), Source(model.file, f"architecture.{key}"))
                for key, value in leaves(model.architecture)
            ]
        facts += of_table(CONFIG, subject.config, {"model.pretrained": "weights that training began from"})
        facts.append(blank("licence of the weights"))
    return Section("Generator and weights", "", tuple(facts))


def _generator(subject: Subject) -> Iterator[Fact]:
    if not subject.is_run:
        return
    if not uses_generator(subject.config):
        yield Fact("generator", "none is used by this method", Source(CONFIG, "method.source"))
        return
    used = subject.manifest.get("generator")
    if not isinstance(used, Mapping):
        yield absent("generator: SHA-256", "the manifest of this run names none")
        return
    yield from of_table(MANIFEST, subject.manifest, {"generator": "generator"})
    name = str(used.get("name"))
    file = Path(mpssl_fed.__file__).parent / "generators" / "embedded" / name / "manifest.json"
    card = read_json(file) if name.replace("-", "").isalnum() and file.is_file() else {}
    if not card or card.get("state_hash") != used.get("sha256"):
        yield absent("generator: training data and licence", "no file of this run or of the toolkit states them")
        return
    where = f"{EMBEDDED}/{name}/manifest.json"
    yield from of_table(
        where,
        card,
        {"public": "generator: public", "training_data": "generator: trained on", "state_hash": "generator: SHA-256 there"},
    )
    fonts = card.get("fonts", [])
    licences = sorted({licence for font in fonts for licence in font.get("licences", [])})
    if licences:
        yield Fact(
            "generator: licences of what it was trained on", word(licences), Source(where, "fonts", "all licences there, each once")
        )


def _policy_generators(subject: Subject) -> Iterator[Fact]:
    if subject.policy is None or subject.policy_file is None:
        return
    file = subject.name(subject.policy_file)
    for index, one in enumerate(subject.policy.generators):
        for key, value in leaves(one.model_dump(exclude_none=True)):
            if value != {}:
                yield Fact(f"generator that the policy lists: {shown(key)}", word(value), Source(file, f"generators.{index}.{key}"))
    if not subject.policy.generators:
        yield Fact("generators that the policy lists", "none", Source(file, "generators"))


def versions(subject: Subject) -> Section:
    """Return the run's own facts, versions and the licences of the packages."""
    facts = of_table(MANIFEST, subject.manifest, OF_A_RUN) if subject.is_run else []
    known = subject.manifest.get("versions")
    for name, version in known.items() if isinstance(known, Mapping) else ():
        facts.append(Fact(f"version: {shown(name)}", word(version), Source(MANIFEST, f"versions.{name}")))
        facts += _licence(str(name), str(version))
    if subject.is_run and not subject.manifest:
        facts = [absent("manifest", f"no {MANIFEST} lies here")]
    elif not facts:
        facts = [absent("versions", "no file of a site keeps them: the run's own dossier has them")]
    return Section("The run and its versions" if subject.is_run else "Versions", "", tuple(facts))


def _licence(package: str, version: str) -> Iterator[Fact]:
    """Yield the licence of a package where the same version is installed here, whose metadata are then the file."""
    try:
        found = metadata(package)
    except (PackageNotFoundError, ValueError):
        return
    for key in ("License-Expression", "License"):
        licence = found[key].strip() if key in found else ""
        if found["Version"] == version and licence and "\n" not in licence and len(licence) <= LONGEST_LICENCE:
            yield Fact(f"licence: {shown(package)}", shown(licence), Source(f"{package}-{version}.dist-info/METADATA", key))
            return
