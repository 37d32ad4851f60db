"""The VQ-VAE and the few-step flow: their training, their folders, and a real step of latent meta-optimisation with each."""

from __future__ import annotations

import json

import pytest
import torch
from torch.nn import functional as F

from mpssl_fed import config as configs
from mpssl_fed.data.datasets import load_dataset
from mpssl_fed.data.partition import choose_labelled
from mpssl_fed.errors import UserError
from mpssl_fed.generators import foundation_classifier, load_generator
from mpssl_fed.generators.biggan import embedded_folder
from mpssl_fed.generators.pretrain import GlyphSource, pretrain
from mpssl_fed.generators.renders import truncated_normal
from mpssl_fed.generators.settings import SmallSettings
from mpssl_fed.generators.small import KINDS, SMALL
from mpssl_fed.generators.vqvae import VQSampler, nearest
from mpssl_fed.method import build_learner
from mpssl_fed.method.parts import Parts
from mpssl_fed.models import Architecture, build_classifier


def made(fonts, out, kind, iterations=3, report=lambda *_: None):
    settings = SmallSettings(kind, iterations, batch=8, renders=60)
    return pretrain(GlyphSource(fonts, "chars:TLV", 3), out, settings, foundation_steps=5, report=report)


@pytest.fixture(scope="module", params=KINDS)
def trained(request, fonts, tmp_path_factory):
    out = tmp_path_factory.mktemp("small") / request.param
    return out, made(fonts, out, request.param)


def test_short_run_writes_a_folder_that_loads(trained):
    out, manifest = trained
    generator = load_generator("folder", out, truncation=0.7)
    assert generator.classes == ("T", "L", "V")
    assert generator.state_hash() == manifest["state_hash"]
    assert foundation_classifier("mine", out).classes == generator.classes
    assert manifest["training"]["iterations_done"] == 3
    assert f"--kind {json.loads((out / 'config.json').read_text())['kind']}" in manifest["made_by"]


def test_same_seed_gives_the_same_weights(trained, fonts, tmp_path):
    out, manifest = trained
    again = made(fonts, tmp_path / out.name, json.loads((out / "config.json").read_text())["kind"])
    assert again["state_hash"] == manifest["state_hash"]


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_keeps_what_the_last_network_has_learned(fonts, tmp_path, kind):
    def interrupt(stage, done, total, loss):
        if stage == kind and done == 1:
            raise KeyboardInterrupt

    manifest = made(fonts, tmp_path / "mine", kind, 9, interrupt)
    assert manifest["training"]["interrupted"]
    assert manifest["training"]["iterations_done"] == 1
    load_generator("folder", tmp_path / "mine")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "gan"}, r"kind is 'gan'; it must be biggan, vqvae or diffusion"),
        ({"z_dim": -1}, r"z_dim is -1; it must be a whole number from 1 to 4096"),
        ({"size": 64}, r"size is 64; generators of kind \w+ draw 32 pixels"),
        ({"hidden": 8}, r"does not fit config.json"),
        ({"num_classes": 4}, r"does not fit config.json|4 distinct names"),
    ],
)
def test_unfit_config_is_named(trained, tmp_path, change, message):
    for file in trained[0].iterdir():
        if file.name != "manifest.json":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(UserError, match=message):
        load_generator("folder", tmp_path)


def test_missing_files_and_damage_are_named(trained, tmp_path):
    with pytest.raises(UserError, match=r"has no config.json"):
        load_generator("folder", tmp_path)
    with pytest.raises(UserError, match=r"needs generator.path"):
        load_generator("folder")
    for file in trained[0].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    blob = bytearray((tmp_path / "pytorch_model.bin").read_bytes())
    blob[len(blob) // 2] ^= 1
    (tmp_path / "pytorch_model.bin").write_bytes(bytes(blob))
    with pytest.raises(UserError, match=r"differs from the SHA-256"):
        load_generator("folder", tmp_path)
    (tmp_path / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match=r"has no pytorch_model.bin"):
        load_generator("folder", tmp_path)


def test_nearest_code_is_the_nearest():
    codes, book = torch.tensor([[[[0.1]], [[0.9]]], [[[2.2]], [[-1.0]]]]), torch.tensor([[2.0, -1.0], [0.0, 1.0], [5.0, 5.0]])
    assert nearest(codes, book).flatten().tolist() == [1, 0]


def test_a_sure_prior_draws_one_code():
    sampler = VQSampler(3, 4, 8, 4, 5, 6)
    index = torch.randint(5, (2, 8, 8), generator=torch.Generator().manual_seed(0))
    sure = 1e4 * F.one_hot(index, 5).movedim(-1, 1).float()
    assert torch.equal(sampler.mixture(sure), sampler.codebook[index].movedim(-1, 1))


@pytest.fixture(scope="module", params=SMALL)
def shipped(request):
    return load_generator(request.param), json.loads((embedded_folder(request.param) / "manifest.json").read_text())


def test_shipped_folder_is_small_and_of_the_same_classes(shipped):
    generator, _ = shipped
    assert sum(path.stat().st_size for path in embedded_folder(generator.name).iterdir()) <= 2_000_000
    assert generator.classes == load_generator("glyphs-digits").classes


def test_shipped_samples_are_named_right_and_vary(shipped):
    generator, manifest = shipped
    n = 20 * len(generator.classes)
    y = torch.arange(n) % len(generator.classes)
    with torch.no_grad():
        images = generator(generator.sample_z(n, torch.Generator().manual_seed(5)), F.one_hot(y).float())
        right = (foundation_classifier("glyphs-digits")(images).argmax(1) == y).float().mean().item()
    assert images.isfinite().all()
    assert images.abs().max() <= 1
    assert abs(right - manifest["quality"]["sample_accuracy"]) < 0.1
    assert right > 0.7
    assert manifest["quality"]["spread"] > 0.5


def test_one_step_of_mp_ssl_moves_the_latents_and_not_the_generator(shipped):
    generator, manifest = shipped
    data = load_dataset("mnist-5k")
    config = configs.from_mapping({"method": {"name": "mp-ssl"}, "generator": {"name": generator.name}, "federation": {"sites": 1}})
    chosen = data.train.take(choose_labelled(data.train.y.numpy(), 2, None, 0))
    learner = build_learner(
        config, Parts(chosen, build_classifier(Architecture("small-cnn", data.classes, 1, 32)), generator, False), site=0
    )
    learner._begin(1)
    before = {key: value.clone() for key, value in learner.source.latents.state_dict().items()}
    learner.step(5)  # at step 0 lambda is 0: nothing is optimised
    after = learner.source.latents.state_dict()
    moved = [key for key in before if not torch.equal(before[key], after[key])]
    assert any("mapper" in key for key in moved)
    assert any("converter" in key for key in moved)
    assert generator.state_hash() == manifest["state_hash"]


def test_quality_of_renders_themselves_is_the_scale(shipped):
    assert shipped[1]["quality"]["render_accuracy"] > 0.95


def test_latents_are_cut_at_two(shipped):
    generator, _ = shipped
    assert generator.sample_z(50, torch.Generator().manual_seed(0)).abs().max() <= 2
    assert truncated_normal(torch.Generator().manual_seed(0), 50, 3).abs().max() <= 2
