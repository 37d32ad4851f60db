"""Write docs/reference-config.md, -cli.md, -study.md and -codes.md from the schemas, the command line and the tables.

python tools/reference.py [--check]     # --check: write nothing, exit 1 where a page is stale
"""

from __future__ import annotations

import argparse
import sys
import types
import typing
from pathlib import Path
from typing import Any

import typer.main
from annotated_types import Ge, Gt, Le, Lt
from click import Context, Group
from pydantic import Discriminator

from mpssl_fed import cli
from mpssl_fed.codes import Code
from mpssl_fed.config import METHODS, Config
from mpssl_fed.config.learning import BUNDLES, METHOD_DEFAULTS
from mpssl_fed.config.leaves import leaves
from mpssl_fed.config.marks import Mark
from mpssl_fed.reply_metrics import REPLY_METRICS
from mpssl_fed.study.schema import Asked, Excuse, SeedRule, Study, Tuned

DOCS = Path(__file__).parents[1] / "docs"
DECIDED = [
    "The last column says who decides a key when a message asks a deployed site for it. **server**: the server, within what a site",
    "takes by default; **site**: the owner, else the default; any other value is refused by a code; **ignored**: nobody, any value",
    "passes. An owner says more, or less, in the field of the policy that stands in brackets or under its `settings`",
    "([deploy.md](deploy.md)). A simulated run is its own owner: there every value of the type is taken.",
]
STUDY_PARTS = {
    "`seeds` as a rule": SeedRule,
    "An item of `primary` or `compare`": Asked,
    "`tuned`": Tuned,
    "An item of `tuned.unless`": Excuse,
}
NAMES = {SeedRule: "rule", Asked: "comparison", Tuned: "table", Excuse: "reason"}
HEAD = "<!-- written by tools/reference.py; edit the source, not this page -->\n\n"


def config_page() -> str:
    """Return the page of every key: its type and range, its default, its meaning, and who decides it at a deployed site."""
    lines = ["# Config keys", "", "Set any of them in YAML or as `key.path=value` on the command line.", "", *DECIDED, ""]
    lines += ["| key | type | default | meaning | at a deployed site |", "|---|---|---|---|---|"]
    lines += _rows()
    lines += ["", "## Methods", "", "| `method.name` | source | loss | sets |", "|---|---|---|---|"]
    lines += [f"| `{name}` | {source} | {loss} | {_sets(name)} |" for name, (source, loss) in METHODS.items()]
    return HEAD + "\n".join(lines) + "\n"


def _sets(method: str) -> str:
    def flat(fields: dict[str, Any], prefix: str) -> list[str]:
        parts = [
            flat(v, f"{prefix}{k}.") if isinstance(v, dict) else [f"`{prefix}{k}={'null' if v is None else v}`"]
            for k, v in fields.items()
        ]
        return [word for part in parts for word in part]

    return ", ".join([*flat(METHOD_DEFAULTS.get(method, {}), "method."), *flat(BUNDLES.get(method, {}), "")])


def _rows() -> list[str]:
    rows = []
    for leaf in leaves(Config):
        default = "" if leaf.field.is_required() else f"`{_cell('null' if leaf.default is None else str(leaf.field.default))}`"
        kind = f"{_type(leaf.field.annotation)}{_range(leaf.field.metadata)}"
        rows.append(f"| `{leaf.key}` | {kind} | {default} | {_cell(leaf.field.description or '')} | {_decided(leaf.mark)} |")
    return rows


def _decided(mark: Mark) -> str:
    """Return who decides a key at a deployed site, how far, by which word of the owner, and why."""
    if mark.who == "ignored":
        return f"ignored: {mark.why}"
    far = f"{mark.low:g} to {mark.high:g}" if mark.who == "server" and mark.low is not None else ", ".join(mark.words)
    owner = (
        "nobody changes it"
        if mark.fixed
        else f"`{mark.owner}`"
        if mark.owner
        else "`settings`"
        if far or mark.who == "site"
        else ""
    )
    return f"{mark.who}{f' {far}' if far else ''}{f' ({owner})' if owner else ''}: {mark.why}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _type(kind: Any) -> str:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type(argument) for argument in arguments)
    if origin is tuple and Ellipsis in arguments:
        return f"list of {_type(arguments[0])}"
    if origin is not None:
        return f"{origin.__name__} of {', '.join(_type(argument) for argument in arguments)}"
    return {type(None): "null"}.get(kind, getattr(kind, "__name__", str(kind)))


def _range(metadata: list[Any]) -> str:
    signs = {Ge: ("ge", "&ge;"), Gt: ("gt", "&gt;"), Le: ("le", "&le;"), Lt: ("lt", "&lt;")}
    parts = []
    for item in metadata:
        if type(item) in signs:
            attribute, sign = signs[type(item)]
            parts.append(f"{sign} {getattr(item, attribute):g}")
    return f" {', '.join(parts)}" if parts else ""


def cli_page() -> str:
    """Return the page of every command, as its ``--help`` says it."""
    root = typer.main.get_command(cli.build())
    return HEAD + "# Commands\n\n" + "\n".join(_commands(root, "mpssl-fed")) + "\n"


def _commands(command: Any, path: str) -> list[str]:
    if isinstance(command, Group):
        return [line for name, child in command.commands.items() for line in _commands(child, f"{path} {name}")]
    context = Context(command, info_name=path)
    lines = [f"## `{path}`", "", (command.help or "").strip(), ""]
    rows = []
    for parameter in command.params:
        record = parameter.get_help_record(context)
        shown, meaning = record or (parameter.make_metavar(context), getattr(parameter, "help", None) or "")
        rows.append(f"| `{_cell(shown)}` | {_cell(meaning)} |")
    return [*lines, "| argument or option | meaning |", "|---|---|", *rows, ""] if rows else lines


def codes_page() -> str:
    """Return the page of what a site may answer beside its weights: the codes of a refusal, and the numbers."""
    lines = ["# What a site answers beside its weights", "", "## Codes", ""]
    lines += ["All that either side learns of why a message or a reply is not taken. Numbers are those of a Flower `Error`.", ""]
    lines += ["| code | number | raised by | meaning |", "|---|---|---|---|"]
    lines += [f"| `{code}` | {code.number or 'never sent'} | {', '.join(code.by)} | {_cell(code.means)} |" for code in Code]
    lines += [
        "",
        "## Numbers",
        "",
        "Those that the site's policy lists under `metrics`, and no other, leave a deployed site; the site's",
    ]
    lines += ["weight in the average (`num-examples`: the declared size under differential privacy) always does.", ""]
    lines += ["| number | exact | meaning |", "|---|---|---|"]
    lines += [f"| `{m.name}` | {'yes' if m.exact else 'no'} | {_cell(m.means)} |" for m in REPLY_METRICS.values()]
    lines += ["| `confusion` | yes | the table of `federation.evaluate_at_sites` under scope `off`; noised, it needs no listing |"]
    lines += ["", "An exact number tells of the images without noise: no policy with scope `end-to-end` may list it."]
    return HEAD + "\n".join(lines) + "\n"


def study_page() -> str:
    """Return the page of every key of a study file."""
    lines = [
        "# Keys of a study file",
        "",
        "What they are for, with an example: [studies.md](studies.md). `extends` names a study that",
        "this one extends; it is joined before the keys below are read.",
        "",
    ]
    for title, model in (("", Study), *STUDY_PARTS.items()):
        lines += [f"## {title}", ""] if title else []
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            default = "" if field.is_required() else f"`{_cell('null' if field.default is None else str(field.default))}`"
            kind = _study_type(field.annotation, field.metadata)
            lines.append(f"| `{name}` | {kind} | {default} | {_cell(field.description or '')} |")
        lines.append("")
    return HEAD + "\n".join(lines)


def _study_type(annotation: Any, metadata: list[Any]) -> str:
    """Return a type as the config page shows it; a part of the study by its name."""
    if any(isinstance(item, Discriminator) for item in metadata):
        return "list of int, number, or a rule"
    words = _type(annotation)
    for model in (*STUDY_PARTS.values(), Any):
        words = words.replace(getattr(model, "__name__", str(model)), "value" if model is Any else NAMES[model])
    return f"{words.replace('dict of str, value', 'settings')}{_range(metadata)}"


def _cell(text: str) -> str:
    """Return a text as a cell of a table: on one line, without an end of the cell in it."""
    return text.replace("|", "\\|").replace("\n", " ")


PAGES = {
    "reference-config.md": config_page,
    "reference-cli.md": cli_page,
    "reference-study.md": study_page,
    "reference-codes.md": codes_page,
}


def main() -> int:
    """Write or check the pages; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = []
    for name, page in PAGES.items():
        file = DOCS / name
        if check and (not file.is_file() or file.read_text() != page()):
            stale.append(str(file))
        elif not check:
            file.write_text(page())
    if stale:
        print(f"stale: {', '.join(stale)}; run python tools/reference.py", file=sys.stderr)
    return bool(stale)


if __name__ == "__main__":
    sys.exit(main())
