"""Pipelines of diffusers as generators: the images that diffusers draws, their gradients, and memory that does not grow."""

from __future__ import annotations

import gc
import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed: make test-extras")

from mpssl_fed.config import from_mapping  # noqa: E402
from mpssl_fed.data.datasets import load_dataset  # noqa: E402
from mpssl_fed.deployment.own_generator import OwnGenerator  # noqa: E402
from mpssl_fed.federation.refusal import Refusal  # noqa: E402
from mpssl_fed.generators import Generator, load_generator  # noqa: E402
from mpssl_fed.generators.files import sums  # noqa: E402
from mpssl_fed.generators.pipelines.sampler import SPREAD  # noqa: E402
from mpssl_fed.method import build_learner  # noqa: E402
from mpssl_fed.method.parts import Parts  # noqa: E402
from mpssl_fed.models import Architecture, build_classifier  # noqa: E402
from mpssl_fed.privacy.policy import Policy  # noqa: E402
from tests.extras import folders  # noqa: E402

KINDS: dict[str, Callable[[Path], Path]] = {
    "consistency": folders.consistency,
    "two steps": lambda at: steps(folders.consistency(at), {"timesteps": [22, 0]}),
    "ddpm": folders.ddpm,
    "ddim": lambda at: steps(folders.ddim(at, prediction_type="v_prediction"), {"steps": 3}),
}


def steps(folder: Path, said: dict[str, object]) -> Path:
    (folder / "sampling.json").write_text(json.dumps(said))
    return folder


def inputs(generator: Generator, n: int = 3) -> tuple[Tensor, Tensor]:
    """Return z and soft labels that mix all classes."""
    rng = torch.Generator().manual_seed(1)
    return generator.sample_z(n, rng), torch.rand(n, len(generator.classes), generator=rng).double().softmax(1).float()


@pytest.fixture(params=KINDS)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return KINDS[request.param](tmp_path / "pipeline")


@pytest.mark.parametrize("timesteps", [None, [22, 0], [30, 20, 0]])
def test_a_consistency_model_draws_what_its_own_pipeline_draws(tmp_path, monkeypatch, timesteps) -> None:
    folder = folders.consistency(tmp_path / "cm")
    if timesteps:
        steps(folder, {"timesteps": timesteps})
    generator = load_generator("diffusers", folder)
    z = generator.sample_z(4, torch.Generator().manual_seed(2))
    order, drawn = iter(generator.orders[1:]), z / SPREAD

    def noise(shape: tuple[int, ...], **_: object) -> Tensor:
        """Return what the pipeline takes in place of new noise; after the last step it weighs nothing."""
        here = next(order, None)
        return torch.ones(shape) if here is None else drawn[:, here].view(shape)

    monkeypatch.setattr("diffusers.schedulers.scheduling_consistency_models.randn_tensor", noise)
    pipeline = diffusers.ConsistencyModelPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    asked = {"timesteps": timesteps} if timesteps else {}
    theirs = pipeline(
        4, [4, 0, 2, 2], latents=drawn.view(4, 3, 16, 16), output_type="pt", num_inference_steps=None if timesteps else 1, **asked
    )
    torch.testing.assert_close((generator(z, torch.eye(5)[[4, 0, 2, 2]]) + 1) / 2, theirs.images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("kind", [folders.ddpm, folders.ddim])
def test_a_network_of_ddpm_draws_what_ddim_without_noise_draws(tmp_path, kind, prediction) -> None:
    folder = kind(tmp_path / "pipeline", prediction_type=prediction)
    generator = load_generator("diffusers", folder).double()  # epsilon over the root of what is left of the signal: 158 x rounding
    z, label = inputs(generator, 3)[0].double(), torch.tensor([1, 4, 0])
    unet = diffusers.UNet2DModel.from_pretrained(folder / "unet", local_files_only=True).double()
    scheduler = diffusers.DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    scheduler.set_timesteps(4)
    x = (z / SPREAD).view(3, -1, 16, 16)
    with torch.no_grad():
        for t in scheduler.timesteps:
            x = scheduler.step(unet(x, t, class_labels=label).sample, t, x).prev_sample
    mine = generator(z, torch.eye(5, dtype=torch.float64)[label])
    torch.testing.assert_close(mine, x.clamp(-1, 1).expand(-1, 3, -1, -1), rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_finite_differences(folder: Path) -> None:
    """Of a random projection, in float64, along random directions of z and of the label; nothing else is kept fixed."""
    generator = load_generator("diffusers", folder).double()
    z, label = (one.double().requires_grad_() for one in inputs(generator))
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(3, 3, 16, 16, generator=rng, dtype=torch.float64)

    def value(z: Tensor, label: Tensor) -> Tensor:
        return (generator(z, label) * weight).sum()

    slopes = torch.autograd.grad(value(z, label), [z, label])
    assert all(float(slope.abs().max()) > 1e-3 for slope in slopes)
    with torch.no_grad():
        for place, slope in enumerate(slopes):
            for _ in range(3):
                way = torch.randn(slope.shape, generator=rng, dtype=torch.float64)
                ends = [
                    value(*((x + sign * 1e-6 * way) if i == place else x for i, x in enumerate((z, label)))) for sign in (1, -1)
                ]
                torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, (slope * way).sum(), rtol=1e-5, atol=1e-5)


def test_images_repeat_and_tell_classes_and_latents_apart(folder: Path) -> None:
    generator = load_generator("diffusers", folder, truncation=0.7)
    z, label = inputs(generator)
    x = generator(z, label)
    assert x.shape == (3, 3, 16, 16)
    assert float(x.abs().max()) <= 1
    torch.testing.assert_close(x, generator(z, label), rtol=0, atol=0)
    torch.testing.assert_close(x[1:2], generator(z[1:2], label[1:2]), rtol=1e-4, atol=1e-5)
    assert float((x - generator(z, label.flip(1))).abs().max()) > 1e-3
    assert float((x - generator(-z, label)).abs().max()) > 1e-2
    assert generator.train().unet.training is False
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    again = load_generator("diffusers", folder, truncation=0.7)
    assert again.state_hash() == generator.state_hash()
    (folder / "classes.json").write_text(json.dumps(list("abcde")))
    named = load_generator("diffusers", folder)
    assert named.classes == tuple("abcde")
    assert named.state_hash() != generator.state_hash()


def test_the_hash_tells_samplers_apart_that_share_their_weights(tmp_path) -> None:
    folder = folders.ddpm(tmp_path / "pipeline")
    hashes = [load_generator("diffusers", steps(folder, {"steps": n})).state_hash() for n in (2, 3)]
    folders.ddpm(folder, prediction_type="sample")
    assert len({*hashes, load_generator("diffusers", folder).state_hash()}) == 3


def test_activations_do_not_grow_with_the_steps(tmp_path) -> None:
    """What a backward pass needs is computed anew: a further step keeps its input and no activation of the network."""

    def kept(generator: Generator) -> int:
        alive: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            storage = x.untyped_storage()
            alive[storage.data_ptr()] = storage.nbytes()
            return x

        z, label = (one.requires_grad_() for one in inputs(generator, 8))
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            x = generator(z, label)
        own = {p.untyped_storage().data_ptr() for p in (*generator.parameters(), *generator.buffers())}
        assert x.requires_grad
        return sum(size for at, size in alive.items() if at not in own)

    folder = folders.ddim(tmp_path / "pipeline")
    few, many = (kept(load_generator("diffusers", steps(folder, {"steps": n}))) for n in (2, 10))
    image = 8 * 3 * 16 * 16 * 4
    assert many - few <= 8 * 4 * image
    plain = load_generator("diffusers", steps(folder, {"steps": 2}))
    plain.unet.disable_gradient_checkpointing()
    plain.schedule.steps = 1  # one step at once, nothing recomputed: what the test above would see without
    assert kept(plain) > 8 * few


@pytest.mark.parametrize("kind", ["consistency", "two steps", "ddpm"])
def test_latents_are_optimised_through_it_and_nothing_is_left_over(tmp_path, kind: str) -> None:
    folder = KINDS[kind](tmp_path / "pipeline")
    method = {"name": "mp-ssl", "batch": 4, "lmo_batch": 4, "lmo_every": 1, "warmup": 0, "buffer": 1, "refresh_every": 1}
    config = from_mapping({"method": method, "federation": {"rounds": 12, "local_steps": 2}, "generator": {"name": "diffusers"}})
    data, classes = load_dataset("mnist-5k"), tuple("0123456789")
    parts = Parts(
        data.train.take(range(0, 3000, 100)),
        build_classifier(Architecture("small-cnn", classes, 1, 32)),
        load_generator("diffusers", folder),
        flip=False,
    )
    learner = build_learner(config, parts, site=0)
    before = [p.clone() for p in learner.source.latents.parameters()]
    assert learner.train(1)["gap"] > 0
    after = list(learner.source.latents.parameters())
    assert all(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(bool(p.isfinite().all()) for p in after)
    alive = []
    for number in (2, 3, 4, 5):
        learner.train(number)
        gc.collect()
        alive.append(sum(one.numel() for one in gc.get_objects() if issubclass(type(one), Tensor)))
    assert alive[-1] <= alive[0]


def test_it_is_loaded_without_a_socket(folder: Path, monkeypatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a socket was asked for")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert load_generator("diffusers", folder).size == 16


def test_a_site_loads_the_files_that_its_policy_lists_and_no_others(tmp_path, cli) -> None:
    folder = folders.consistency(tmp_path / "own" / "pipeline")
    code, said, _ = cli("policy", "generator", "diffusers", "--path", folder)
    assert code == 0
    assert all(name in said for name in ("model_index.json", "scheduler/scheduler_config.json", "unet/config.json"))
    rules = {"dataset": "d", "public_size": 10, "max_epsilon": 1, "delta": 1e-3, "scope": "off"}
    entry = {"name": "diffusers", "trained_on": "noise", "files": sums(folder)}
    data = {"name": "none", "task": {"classes": ["a", "b"], "channels": 3}}
    config = from_mapping({"data": data, "method": {"name": "naive-gssl"}, "generator": {"name": "diffusers"}})

    def load() -> object:
        own = OwnGenerator(Policy.model_validate(rules | {"generators": [entry]}), str(folder), tmp_path / "copies")
        return own.load(config)[1]

    generator = load()
    assert isinstance(generator, Generator)
    assert generator.state_hash() == load_generator("diffusers", folder).state_hash()
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(Refusal, match="generator"):
        load()


def test_a_federation_runs_with_it_from_the_command_line(tmp_path, cli) -> None:
    folder = folders.consistency(tmp_path / "pipeline", classes=10)
    tiny = ("data.labels_per_class=2", "data.test_limit=50", "federation.local_steps=2", "method.batch=8", "method.lmo_batch=6")
    asked = ("generator.name=diffusers", f"generator.path={folder}", "method.name=mp-ssl", "method.lmo_every=1")
    code, said, error = cli("simulate", "demo", *asked, *tiny, "--sites", "2", "--rounds", "2", "--output", tmp_path / "run")
    assert code == 0, error
    assert "test accuracy" in said
