"""Writing a dossier: dossier.html and dossier.md, and the model's card where there is a model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from mpssl_fed.dossier import evidence, flow
from mpssl_fed.dossier.card import card, may_write
from mpssl_fed.dossier.facts import Section
from mpssl_fed.dossier.markdown import document
from mpssl_fed.dossier.spending import headline, spending
from mpssl_fed.dossier.subject import Subject
from mpssl_fed.dossier.weights import header
from mpssl_fed.errors import UserError, option
from mpssl_fed.files import write_atomic
from mpssl_fed.names import shown
from mpssl_fed.page import write_page
from mpssl_fed.runs.manifest import now
from mpssl_fed.runs.written import CARD

HTML, MARKDOWN = "dossier.html", "dossier.md"
FINDING = "Every line was read from the file named below it; what has no file is said to be absent. Nothing else is asserted."


@dataclass(frozen=True)
class Written:
    """The page, its Markdown, the model's card (None where there is no model), and what the user should know."""

    page: Path
    markdown: Path
    card: Path | None
    notes: tuple[str, ...] = ()


def write_dossier(subject: Subject, out: Path | None = None) -> Written:
    """Write the dossier of a run or a site into ``out``, by default its own folder.

    0600 where it shows what is the owner's alone. A README.md that is not this command's stays. UserError for a folder that is no
    run and no site, a damaged file, or where the files cannot be written.
    """
    sections = _sections(subject)
    folder, mode = out or subject.path, 0o600 if subject.private else 0o644
    title, subtitle = _title(subject)
    model = header(subject.path) if subject.is_run else None
    privacy = next(section for section in sections if section.title.startswith("Privacy loss"))
    text = None if model is None else card(subject, model, privacy)
    first = headline(privacy)
    try:
        if not folder.exists():
            folder.mkdir(parents=True, mode=0o700 if subject.private else 0o755)
        page = write_page(
            folder / HTML, "dossier.html", mode, title=title, subtitle=subtitle, finding=FINDING, first=first, sections=sections
        )
        markdown = write_atomic(folder / MARKDOWN, document(title, f"{subtitle} {FINDING}", sections), mode)
        if text is None:
            return Written(page, markdown, None)
        if not may_write(folder / CARD):
            return Written(
                page, markdown, None, (f"{folder / CARD}: is your own and stays; {option('out', 'DIR')} for the model's card",)
            )
        return Written(page, markdown, write_atomic(folder / CARD, text, mode))
    except OSError as error:
        raise UserError(
            f"{folder}: the dossier cannot be written there ({error.strerror}); choose another by {option('out', 'DIR')}"
        ) from error


def _sections(subject: Subject) -> list[Section]:
    found = [
        flow.purpose(subject),
        flow.lawful(),
        flow.leaving(subject),
        spending(subject),
        flow.trust(subject),
        evidence.audits(subject),
        evidence.refusals(subject),
        evidence.made_of(subject),
        evidence.versions(subject),
        flow.risks(),
        flow.guards(),
    ]
    return [replace(section, facts=subject.marked(section.facts)) for section in found]


def _title(subject: Subject) -> tuple[str, str]:
    written = f"Written {now()[:16].replace('T', ' ')} UTC."
    if not subject.is_run:
        whose = f"the site of {shown(subject.policy.dataset)}" if subject.policy else "a site"
        return f"Dossier of {whose}", f"For the owner of this site and its data-protection officer alone. {written}"
    side = (
        "From the server's side: nothing here is of a site alone."
        if subject.deployed
        else "Of a simulation: all sites are one owner's."
    )
    return (
        f"Dossier of run {shown(str(subject.manifest.get('run_id', subject.path.name)))}",
        f"For a data-protection officer. {side} {written}",
    )
