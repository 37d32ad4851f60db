"""The classifier's optimiser takes the steps of torch.optim, to the bit, and brings no compiler in."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
import torch

from mpssl_fed.config import from_mapping
from mpssl_fed.method.optimiser import Optimiser

CASES: list[dict[str, Any]] = [
    {"name": "adamw"},
    {"name": "adamw", "weight_decay": 0.05, "schedule": "cosine", "warmup_steps": 3},
    {"name": "sgd"},
    {"name": "sgd", "weight_decay": 0.1},
    {"name": "momentum"},
    {"name": "momentum", "nesterov": True, "weight_decay": 0.01},
]


@pytest.mark.parametrize("case", CASES)
def test_the_bits_of_torch(case: dict[str, Any]) -> None:
    optim = from_mapping({"optim": case}).optim
    rng = torch.Generator().manual_seed(0)
    shapes = [(3,), (7, 5), (64, 3, 3, 3), (1000,), (1,)]
    theta = {f"p{i}": torch.randn(shape, generator=rng).requires_grad_() for i, shape in enumerate(shapes)}
    twins = [p.detach().clone() for p in theta.values()]
    theirs: torch.optim.Optimizer
    if optim.name == "adamw":
        theirs = torch.optim.AdamW(twins, optim.lr, betas=optim.betas, weight_decay=optim.weight_decay)
    else:
        mu = optim.momentum if optim.name == "momentum" else 0.0
        theirs = torch.optim.SGD(twins, optim.lr, mu, nesterov=optim.nesterov and mu > 0, weight_decay=optim.weight_decay)
    ours = Optimiser(from_mapping({"optim": case}), theta)
    for t in range(20):
        g = {name: torch.randn(p.shape, generator=rng) for name, p in theta.items()}
        kept = {name: value.clone() for name, value in g.items()}
        for group in theirs.param_groups:
            group["lr"] = ours.rate(t)
        for twin, value in zip(twins, kept.values(), strict=True):
            twin.grad = value.clone()
        ahead = ours.look_ahead(g, t)
        theirs.step()
        ours.step(g, t)
        assert all(torch.equal(g[name], kept[name]) for name in g)  # a gradient is the caller's
        assert all(torch.equal(p, twin) for p, twin in zip(theta.values(), twins, strict=True))
        assert all(torch.allclose(ahead.theta[name], p, atol=1e-6) for name, p in theta.items())


def test_no_compiler_is_imported_for_a_step() -> None:
    program = (
        "import sys, torch\n"
        "from mpssl_fed.config import from_mapping\n"
        "from mpssl_fed.method.optimiser import Optimiser\n"
        "Optimiser(from_mapping({}), {'w': torch.ones(2, requires_grad=True)}).step({'w': torch.ones(2)}, 0)\n"
        "print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
