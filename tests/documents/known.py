"""What the pages' commands need here: what stands for some of them, what cannot run, and how right each run has to end.

Everything else is run as it stands. Each entry has its reason, and a test holds that none is stale.
"""

from __future__ import annotations

import re

from tests.documents.reading import ROOT

MACHINES = (
    "needs root and three machines: tests/real/test_machines.py runs this section's blocks, read from the page, in namespaces"
)
SECTIONS_ELSEWHERE = {
    ("docs/deploy.md", "1. The server"): MACHINES,
    ("docs/deploy.md", "2. Each site"): MACHINES,
    ("docs/deploy.md", "3. Back on the server: let them in, run"): MACHINES,
}
"""(page, section) -> why its commands are not run from here."""

COMMANDS_ELSEWHERE = {
    ("README.md", "make test"): "is what runs this test",
    ("docs/studies.md", "mpssl-fed study methods-one-site"): "takes hours: tests/test_shipped_configs.py runs an arm of it",
    (
        "README.md",
        'flwr run . --stream --federation-config "num-supernodes=4 client-resources-num-cpus=1"',
    ): "leaves Flower's SuperLink running: tests/federation/test_flower_run.py runs it against one of its own",
}
"""(page, command) -> why it is not run from here."""

WANTS = {("docs/own-data.md", "onnx"): ("onnx", "onnxscript", "onnxruntime")}
"""(page, word of a step) -> the packages of an extra without which the step is left out; tests/extras/ has the whole page."""

ACTIVE = "the environment that runs the tests stands for it; tests/test_wheel.py installs into a new one"
PIP = "python -m pip --disable-pip-version-check install --no-index --no-deps --no-build-isolation"
SET_ASIDE = "for class in platelets rbc wbc; do mkdir -p cells/test/$class; mv cells/train/$class/*[05] cells/test/$class/; done"
DRY = "nothing is downloaded or replaced here; an editable install would need another package"
INDEX = "needs PyTorch's own index: tests/test_install.py holds make's recipe, which is the same line"
STANDS_FOR = {
    "make demo": ("{make demo}", "the Makefile's own line for it; the environment is there already"),
    "source .venv/bin/activate": ("", ACTIVE),
    "python3 -m venv .venv && source .venv/bin/activate": ("", ACTIVE),
    "pip install -c constraints.txt -e .": (f"{PIP} --dry-run -c constraints.txt .", DRY),
    '.venv/bin/pip install -c constraints.txt -e ".[ray]"': (f'{PIP} --dry-run -c constraints.txt ".[ray]"', DRY),
    "pip install uv && uv pip install --torch-backend=cpu -c constraints.txt .": (
        "uv pip install --torch-backend=cpu --help",
        INDEX,
    ),
    "mpssl-fed study own data.root=photos --output runs/compare": (
        "mpssl-fed study own data.root=photos seeds=1 --output runs/compare",
        "four arms of three seeds take ten minutes; one seed shows that each of them runs and learns",
    ),
    SET_ASIDE: ("", "the drawn slides are set aside as they are drawn"),
    "pip install ./examples/plugin": (f"{PIP} --target plugins ./examples/plugin", "into a folder of the test's own"),
}
"""Command -> (what is run in its place, why)."""

PLUGIN = (
    "mpssl-fed simulate demo data.name=digit-turns method.name=null method.source=random method.loss=barlow-twins "
    "method.lambda=0.01"
)
TUNE = "mpssl-fed study demo method.name=base data.held_out=validation optim.lr=[0.003,0.006,0.01] seeds=1 --output runs/tuning"
FLOORS = {
    ("README.md", "make demo"): 0.4,  # 63.2, the worst cell of nine
    ("README.md", "mpssl-fed simulate own data.root=DIR --output runs/mine"): 0.7,  # 92.5
    ("README.md", "mpssl-fed simulate privacy/end-to-end"): 0.6,  # 81.5
    ("docs/shared-noise.md", "mpssl-fed simulate privacy/shared-noise --output runs/shared"): 0.6,  # 86.3
    ("README.md", "mpssl-fed deploy demo --sites 3 --output runs/deployed"): 0.5,  # 64.2
    ("docs/example-cells.md", "mpssl-fed simulate own data.root=cells data.subjects=parent --output runs/open"): 0.9,  # 100
    ("docs/example-cells.md", "mpssl-fed simulate cells.yaml --output runs/private"): 0.7,  # 98.3
    ("docs/example-cells.md", "mpssl-fed simulate cells.yaml privacy.scope=off --output runs/same"): 0.9,  # 99.2
    ("docs/extending.md", PLUGIN): 0.4,  # 55.4
    ("docs/own-data.md", "mpssl-fed simulate own data.root=photos --output runs/mine"): 0.7,  # 92.5
    ("docs/own-data.md", "mpssl-fed study own data.root=photos --output runs/compare"): 0.6,  # 85.0
    ("docs/secure-aggregation.md", "mpssl-fed simulate demo federation.aggregation=secure --output runs/sums"): 0.5,  # 71.2
    ("docs/quickstart.md", "mpssl-fed simulate demo --output runs/first"): 0.5,  # 72.2
    ("docs/quickstart.md", "mpssl-fed simulate demo method.name=base --rounds 2 --output runs/base"): 0.3,  # 53.2
    ("docs/quickstart.md", "mpssl-fed simulate demo method.name=federated-gssl --rounds 2 --output runs/recipe"): 0.5,  # 83.5
    ("docs/quickstart.md", "mpssl-fed study demo seeds=1 --output runs/small-demo"): 0.4,  # 66.7
    ("docs/quickstart.md", TUNE): 0.4,  # 68.8
    ("docs/quickstart.md", "mpssl-fed simulate privacy/end-to-end --rounds 1 --output runs/private"): 0.6,  # 79.7
}
"""(page, command) -> least accuracy, 0..1, that its run, or each arm of its study, has to end with. Chance is .1 of ten digits and
.33 of three shapes, .25 of four turns; what was measured, the worst cell of a study, stands beside."""

SLOW_ALONE = {
    "deploy": "starts real processes: tests/real/test_deploy.py",
    "audit": "attacks a whole run: tests/cli/test_audit.py",
    PLUGIN: "needs the package that the line before it installs: tests/test_plugin.py",
}
"""Subcommand or command -> why `make test` leaves it to that test; `make test-all` runs it as all others."""

OWN_TEST = {"docs/example-cells.md": "tests/documents/test_example_cells.py runs it, with floors and its dossier's epsilon"}
"""Page -> the test that runs it in `make test`; `make test-all` runs it as all others."""

LIGHT = {
    "simulate": ["federation.rounds=1", "federation.local_steps=1", "data.test_limit=200", "warm_start.steps=5"],
    "study": ["--dry-run"],
}
"""Subcommand -> what `make test` adds, so that every command is run there in seconds."""


def in_its_place(command: str) -> str:
    """Return what is run for a command of a page; empty where the test's own environment stands for it."""
    stand_in = STANDS_FOR.get(command, (command, ""))[0]
    return re.sub(r"\{make ([a-z-]+)\}", lambda match: recipe(match[1]), stand_in)


def recipe(target: str) -> str:
    """Return the last line of a target of the Makefile, without the folder of the environment."""
    rule = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert rule, target
    return rule[1].splitlines()[-1].strip().replace("$(BIN)/", "")
