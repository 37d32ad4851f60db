"""What is done to which data, what leaves a site and what cannot, and who is trusted."""

from __future__ import annotations

from collections.abc import Iterator

from mpssl_fed.dossier.facts import Fact, Section, Source, absent, blank, of_table, word
from mpssl_fed.dossier.published import drawing, quote
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.weights import header
from mpssl_fed.names import shown
from mpssl_fed.reply_metrics import CONFUSION, REPLY_METRICS
from mpssl_fed.report.terms import uses_generator
from mpssl_fed.runs.reader import CONFIG, METRICS

CONFIG_KEYS = {
    "data.name": "data set",
    "data.task.classes": "classes that are told apart",
    "data.labels_per_class": "labelled images per class",
    "data.partition.name": "how images are dealt to sites",
    "data.subjects": "where subjects are named",
    "method.name": "method",
    "method.source": "synthetic images from",
    "method.loss": "loss on synthetic images",
    "generator.name": "generator",
    "model.name": "classifier",
    "federation.backend": "backend",
    "federation.sites": "sites",
    "federation.rounds": "rounds",
    "federation.local_steps": "local steps of a round",
    "privacy.scope": "scope of privacy",
    "privacy.trust": "trust",
}
POLICY_KEYS = (
    "dataset",
    "public_size",
    "scope",
    "unit",
    "methods",
    "max_rounds",
    "max_local_steps",
    "max_evaluations",
    "max_table_classes",
    "max_parameters",
)
LEAVES = "test_egress|test_taint|test_with_the_releases_replayed|test_a_reply_weighs"
TABLE_KEYS = {
    "federation.evaluate_at_sites.times": "tables of confusion counts that a site gives, of what it holds out",
    "federation.evaluate_at_sites.held_out": "share of its images or subjects that a site holds out for them",
}
EXACT_TABLE = "how many held-out images of each class are named as what, without noise where the scope is off"
LAWFUL = (
    "controller, and joint controllers",
    "purpose of the processing",
    "lawful basis (GDPR, Article 6)",
    "condition for special categories of data (GDPR, Article 9)",
    "data subjects, and how they were informed",
    "recipients, and transfers to other countries",
    "how long images, latents, ledger and weights are kept",
    "contact of the data-protection officer, opinion, date",
)


def settings(subject: Subject) -> list[Fact]:
    """Return what a run's config says of what is done; a generator is named where something is drawn from it."""
    unused = () if not subject.is_run or uses_generator(subject.config) else ("generator.name",)
    return of_table(CONFIG, subject.config, {key: name for key, name in CONFIG_KEYS.items() if key not in unused})


def purpose(subject: Subject) -> Section:
    """Return what the run or the site does, and the picture of the data flow."""
    facts = settings(subject)
    if subject.policy is not None and subject.policy_file is not None:
        policy = subject.policy
        facts += [
            Fact(f"policy: {key}", word(getattr(policy, key)), Source(subject.name(subject.policy_file), key))
            for key in POLICY_KEYS
        ]
    if not facts:
        facts = [absent("what the site allows", "its policy was not named; name it by --policy")]
    caption = "The data flow. Source: docs/dataflow.svg."
    return Section("What is done, and the flow of data", "", tuple(facts), ((drawing(), caption),))


def lawful() -> Section:
    """Return what only the controller can say."""
    note = "No file of a run says any of this. The controller fills it in."
    return Section("Lawful basis", note, tuple(blank(name) for name in LAWFUL))


def leaving(subject: Subject) -> Section:
    """Return what leaves a site, what cannot, and the tests that hold it."""
    note = (
        "A reply passes a list of keys with type, shape, range and size; what is not on it is dropped and counted. "
        "The tests named below hold that."
    )
    return Section(
        "What leaves a site, and what cannot",
        note,
        tuple(_leaving(subject)),
        (),
        (quote("Pitfalls, and the test that guards each", LEAVES),),
    )


AGGREGATION = {
    "federation.aggregation": "aggregation of the weights (secure: the server sees sums of several sites alone)",
    "federation.secure.min_sites": "sites in such a sum, at least",
}
OF_SUMS = {
    "secure_aggregation.required": "whether weights leave in sums of several sites alone",
    "secure_aggregation.min_sites": "sites in such a sum, at least",
    "secure_aggregation.peers": "sites that are known by their keys",
}


def _leaving(subject: Subject) -> Iterator[Fact]:
    if subject.is_run:
        model = header(subject.path)
        if model is None:
            yield absent("weights of the classifier", "model.safetensors is written when the last round is done")
        else:
            yield Fact(
                "numbers in the weights of the classifier, after each round",
                word(model.parameters),
                Source(model.file, "parameters"),
            )
        yield from of_table(CONFIG, subject.config, AGGREGATION)
        privacy = subject.config["privacy"]
        if privacy["scope"] == "off":
            yield Fact("noise on the weights", "none: the scope is off", Source(CONFIG, "privacy.scope"))
        else:
            yield Fact(
                "declared number of units, the weight of a site",
                word(privacy["public_size"]),
                Source(CONFIG, "privacy.public_size"),
            )
        yield from _tables(subject)
    policy = subject.policy
    if policy is not None and subject.policy_file is not None:
        file = subject.name(subject.policy_file)
        yield Fact("declared number of units, the weight of the site", word(policy.public_size), Source(file, "public_size"))
        yield Fact("numbers in the weights of the classifier, at most", word(policy.max_parameters), Source(file, "max_parameters"))
        yield from of_table(file, policy.model_dump(mode="json"), OF_SUMS)
        yield Fact("noised tables of counts, in a run at most", word(policy.max_evaluations), Source(file, "max_evaluations"))
        yield Fact("numbers beside the weights that the policy lists", word(policy.metrics), Source(file, "metrics"))
        for name in policy.metrics:
            means = EXACT_TABLE if name == CONFUSION else REPLY_METRICS[name].means
            yield Fact(name, means, Source(file, "metrics"))
    elif not subject.is_run:
        yield absent("numbers beside the weights", "the policy lists them; name it by --policy")
    if subject.rounds:
        last = subject.rounds[-1]
        yield Fact("training loss that sites told, last round", word(last.train_loss), Source(METRICS, "last.train_loss"))
        yield Fact("images drawn from generators, last round", word(last.generated), Source(METRICS, "last.generated"))
        for name, seconds in last.timings.items():
            if f"{name}_s" not in REPLY_METRICS:  # the server's own
                continue
            yield Fact(f"seconds of all sites, last round: {shown(name)}", word(seconds), Source(METRICS, f"last.timings.{name}"))


def _tables(subject: Subject) -> Iterator[Fact]:
    """Yield what says which tables of confusion counts the sites of a run give, and how noisy the last ones were."""
    times, *held_out = of_table(CONFIG, subject.config, TABLE_KEYS)
    yield times
    if not subject.config["federation"]["evaluate_at_sites"]["times"]:
        return
    yield from held_out
    last = subject.rounds[-1].at_sites if subject.rounds else None
    for site, told in sorted(last["sites"].items()) if last else ():
        name = f"site {site}: noise on each count of its last table, standard deviation"
        yield Fact(name, word(told["noise_std"]), Source(METRICS, f"last.at_sites.sites.{site}.noise_std"))


def trust(subject: Subject) -> Section:
    """Return whom the guarantee trusts, and who can learn what."""
    facts = of_table(
        CONFIG, subject.config, {"privacy.scope": "scope of privacy", "privacy.trust": "trust", "federation.backend": "backend"}
    )
    if subject.policy is not None and subject.policy_file is not None:
        facts.append(
            Fact("scope that the policy demands", subject.policy.scope, Source(subject.name(subject.policy_file), "scope"))
        )
    quotes = (quote("The promise", "Who is trusted|Neighbouring relation|Unit|delta"), quote("Who can learn what"))
    return Section("Who is trusted", "", tuple(facts), (), quotes)


def risks() -> Section:
    """Return what is not protected, in the words of the docs."""
    return Section("Residual risks", "", (), (), (quote("What is not protected"), quote("What a server can still choose")))


def guards() -> Section:
    """Return every pitfall and its test."""
    return Section(
        "Annex: every known pitfall, and the test that guards it", "", (), (), (quote("Pitfalls, and the test that guards each"),)
    )
