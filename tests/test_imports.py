"""The arrows of docs/design.md: who may import whom, and what method and privacy run without."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mpssl_fed
from tests.patience import PATIENCE_S

PACKAGE = Path(mpssl_fed.__file__).parent
HOUSE = PACKAGE.parent
FILES = sorted([*PACKAGE.rglob("*.py"), *(HOUSE / "clients").glob("*.py"), *(HOUSE / "server").glob("*.py")])

LEVELS = (
    {
        "errors",
        "files",
        "names",
        "seeds",
        "registry",
        "environment",
        "caller",
        "download",
        "flock",
        "page",
        "watch",
        "codes",
        "reply_metrics",
        "metrics",
        "method_version",
        "secure",
    },
    {"config"},
    {"models", "generators", "data"},
    {"method"},
    {"privacy"},
    {"runs"},
    {"federation"},
    {"deployment", "trained"},
    {"report"},
    {"clients", "server", "flower_app"},
    {"audit", "dossier"},
    {"api"},
    {"study", "doctor"},
    {"livepage"},
    {"cli"},
)
"""From the ground up; a part imports parts of lower levels, of its own level only within itself."""

LEVEL = {part: level for level, parts in enumerate(LEVELS) for part in parts}
SAME_LEVEL = {
    ("environment", "errors"),
    ("seeds", "errors"),
    ("registry", "errors"),
    ("files", "errors"),
    ("download", "errors"),
    ("download", "files"),
    ("page", "files"),
    ("page", "names"),
    ("metrics", "errors"),
}
APART = ("accounting", "ledger", "policy", "egress", "noise")


def _imports(file: Path) -> set[str]:
    """Return the modules that ``file`` imports anywhere, lazily or not; ``from a import b`` counts as a and a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            found |= {str(node.module)} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _part(module: str) -> str | None:
    words = module.split(".")
    if words[0] in ("clients", "server"):
        return words[0]
    return words[1] if words[0] == "mpssl_fed" and len(words) > 1 and words[1] in LEVEL else None


def _module(file: Path) -> str:
    return ".".join(file.relative_to(HOUSE).with_suffix("").parts).removesuffix(".__init__")


def test_every_part_has_a_level() -> None:
    parts = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert parts - {"__init__", "__main__"} == LEVEL.keys() - {"clients", "server"}


@pytest.mark.parametrize("file", FILES, ids=_module)
def test_arrows_point_down(file: Path) -> None:
    mine = _part(_module(file))
    if mine is None:  # mpssl_fed/__init__.py offers what api has
        return
    theirs = {part for module in _imports(file) if (part := _part(module)) not in (None, mine)}
    upward = {part for part in theirs if LEVEL[str(part)] >= LEVEL[mine] and (mine, part) not in SAME_LEVEL}
    assert not upward, f"{_module(file)} imports {sorted(map(str, upward))}"


def test_config_imports_the_ground_alone() -> None:
    for file in (PACKAGE / "config").glob("*.py"):
        ours = {module for module in _imports(file) if module.startswith("mpssl_fed")}
        assert all(module.startswith(("mpssl_fed.config", "mpssl_fed.errors", "mpssl_fed.files")) for module in ours), (
            f"{file}: {ours}"
        )


def test_the_pillars_of_privacy_stand_apart() -> None:
    names = {f"mpssl_fed.privacy.{name}" for name in APART}
    files = [*(PACKAGE / "privacy").glob("*.py")]
    files += [file for name in APART for file in (PACKAGE / "privacy" / name).rglob("*.py")]
    checked = 0
    for file in files:
        mine = next((name for name in names if _module(file) == name or _module(file).startswith(f"{name}.")), None)
        if mine is not None:
            checked += 1
            others = {other for module in _imports(file) for other in names - {mine} if f"{module}.".startswith(f"{other}.")}
            assert not others, f"{_module(file)} imports {sorted(others)}"
    assert checked >= 2


@pytest.mark.parametrize("part", ["method", "privacy", "models", "generators", "data", "config"])
def test_no_flower_ray_or_opacus_in_the_core(part: str) -> None:
    for file in (PACKAGE / part).rglob("*.py"):
        roots = {module.split(".")[0] for module in _imports(file)}
        allowed = {"opacus"} if _module(file).startswith("mpssl_fed.privacy.accounting") else set()
        assert not roots & ({"flwr", "ray", "opacus"} - allowed), f"{_module(file)} imports {roots & {'flwr', 'ray', 'opacus'}}"


CORE = """
from mpssl_fed.config import from_mapping
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.generators.base import load_generator
from mpssl_fed.method import build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, build_classifier

small = {"name": "mp-ssl", "batch": 4, "lmo_batch": 4, "lmo_every": 1}
config = from_mapping({"method": small, "federation": {"rounds": 1, "local_steps": 2}})
data, classifier = load_dataset("mnist-5k"), build_classifier(Architecture("small-cnn", tuple("0123456789"), 1, 32))
some, private = data.train.take(range(0, 3000, 100)), None
"""
PRIVATE = """
from mpssl_fed.method.views import Views
from mpssl_fed.privacy.build import labelled_view
from mpssl_fed.privacy.noise import SecureNoise
from mpssl_fed.privacy.plan import Plan
from mpssl_fed.privacy.releases import DPPrivateData, ReleasedImages, ReleaseSettings

sigmas = {"sigma_gradient": 1.0, "sigma_meta": 1.0, "sigma_feature": 0.1}  # no count under its floor, where the gap is 0
clips = {"clip_gradient": 1.0, "clip_meta": 1.0, "clip_feature": 1.0}
plan = Plan("end-to-end", "image", 1.0, 1e-5, public_size=30, q=1.0, rounds=1, local_steps=2, lmo_every=1, **clips, **sigmas)
settings = ReleaseSettings(plan)
view, plain = labelled_view("weak", False, 32), Views(False, 32).plain
private = DPPrivateData(classifier, ReleasedImages(some, view, plain), settings, lambda *_: None, SecureNoise())
"""
STEPS = """
parts = Parts(some, classifier, load_generator("glyphs-digits"), flip=False)
learner = build_learner(config, parts, site=0, private=private)
assert learner.train(1)["gap"] > 0
"""
RUNS = {"method": CORE + STEPS, "privacy": CORE + PRIVATE + STEPS}
"""Two steps of MP-SSL on real digits: with exact reads, and with every read released."""


@pytest.mark.parametrize(("part", "absent"), [("method", ("flwr", "ray", "opacus")), ("privacy", ("flwr", "ray"))])
def test_the_core_runs_without(part: str, absent: tuple[str, ...]) -> None:
    modules = sorted(_module(file) for file in (PACKAGE / part).rglob("*.py"))
    program = f"""
import importlib, sys

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {absent!r}:
            raise ModuleNotFoundError(f"{{name}} is not installed", name=name)

sys.meta_path.insert(0, Absent())
for name in {modules!r}:
    importlib.import_module(name)
{RUNS[part]}
assert not set({absent!r}) & {{name.split(".")[0] for name in sys.modules}}
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.stdout == "fine\n", done.stderr[-2000:]


def test_importing_the_package_is_cheap() -> None:
    program = "import sys, mpssl_fed, mpssl_fed.cli; mpssl_fed.cli.build(); print(*{m.split('.')[0] for m in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert not {"torch", "flwr", "ray", "opacus", "matplotlib", "numpy", "sklearn"} & set(done.stdout.split())


@pytest.mark.parametrize("module", ["deployment.start_site", "deployment.submit", "federation.server.rounds"])
def test_a_process_starts_without_what_it_may_never_use(module: str) -> None:
    """Accountants, torchvision and torch's compiler take longer to import than torch: only who uses them pays."""
    late = {"opacus", "scipy", "sklearn", "torchvision", "matplotlib", "torch._dynamo"}
    program = f"import sys, mpssl_fed.{module}; print(*{late} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == "\n"


@pytest.mark.parametrize(
    "module",
    ["study.run", "study.cell", "runs.where", "report.latent_section", "deployment.asking", "deployment.supernode", "cli.site"],
)
def test_a_process_that_computes_nothing_starts_without_torch(module: str) -> None:
    program = f"import sys, mpssl_fed.{module}; print(*{{'torch', 'scipy.stats', 'sklearn', 'matplotlib'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout == "\n"


def test_decompositions_are_taken_in_float64() -> None:
    """In float32 some processors' routines make NaN of a matrix that lacks rank: each call names its float64 operand."""
    names = {"eig", "eigh", "eigvals", "eigvalsh", "svd", "svdvals", "cholesky", "qr", "inv", "pinv", "solve", "lstsq",
             "matrix_rank", "solve_triangular", "slogdet", "det", "matrix_exp", "pca_lowrank", "svd_lowrank",
             "corrcoef", "cov"}  # fmt: skip
    found = 0
    for file in FILES:
        source = file.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in names:
                called = ast.unparse(node.func)
                if called.startswith(("torch.", "np.", "numpy.", "linalg.", "scipy.")):
                    found += 1
                    words = ast.unparse(node) + _scope(source, node)
                    assert "double()" in words or "float64" in words, (
                        f"{_module(file)}:{node.lineno}: {called} of what may be float32"
                    )
    assert found >= 4


def _scope(source: str, call: ast.Call) -> str:
    """Return the text of the innermost function around ``call``."""
    inner = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
    around = [node for node in inner if node.lineno <= call.lineno <= (node.end_lineno or 0)]
    return ast.unparse(max(around, key=lambda node: node.lineno)) if around else ""
