from __future__ import annotations

import json
import math

import pytest
import torch

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.biggan import argument_for_row, cache_folder


def inputs(generator, n=3, dtype=torch.float32):
    z = generator.sample_z(n, torch.Generator().manual_seed(0)).to(dtype)
    soft = torch.softmax(torch.randn(n, len(generator.classes), generator=torch.Generator().manual_seed(1)), 1).to(dtype)
    return z, soft


def change_state(folder, change):
    state = torch.load(folder / "pytorch_model.bin", weights_only=True)
    change(state)
    torch.save(state, folder / "pytorch_model.bin")


@pytest.mark.parametrize("truncation", [0.4, 1.0])
def test_folded_output_equals_the_packages_own(write_biggan, truncation):
    from pytorch_pretrained_biggan import BigGAN

    folder = write_biggan()
    generator = load_generator("biggan", folder, truncation)
    z, soft = inputs(generator)
    reference = BigGAN.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        expected = reference(z, soft, truncation)
        assert expected.std() > 0.05
        assert (generator(z, soft) - expected).abs().max() < 1e-5
    assert expected.shape == (3, 3, generator.size, generator.size) == (3, 3, 32, 32)


def test_loaded_is_frozen_folded_eval_and_channels_last(write_biggan):
    generator = load_generator("biggan", write_biggan())
    assert not any(p.requires_grad for p in generator.parameters())
    assert not any(name.endswith(("_orig", "_u", "_v")) for name in generator.state_dict())
    generator.train()
    assert not any(module.training for module in generator.modules())
    kernels = [p for p in generator.parameters() if p.dim() == 4]
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_gradient_reaches_both_inputs_and_no_parameter(write_biggan):
    generator = load_generator("biggan", write_biggan())
    z, soft = (value.requires_grad_() for value in inputs(generator))
    generator(z, soft).square().mean().backward()
    assert z.grad is not None
    assert soft.grad is not None
    assert z.grad.abs().sum() > 0
    assert soft.grad.abs().sum() > 0
    assert all(p.grad is None for p in generator.parameters())


def test_state_hash_survives_use_and_sees_one_bit(write_biggan):
    generator = load_generator("biggan", write_biggan())
    before = generator.state_hash()
    for _ in range(3):
        z, soft = (value.requires_grad_() for value in inputs(generator))
        generator.train()
        generator(z, soft).mean().backward()
    assert generator.state_hash() == before
    weight = next(generator.parameters())
    weight.view(-1)[0] = torch.nextafter(weight.view(-1)[0], torch.tensor(9.0))
    assert generator.state_hash() != before


def test_half_precision_file_loads_to_float32(write_biggan):
    generator = load_generator("biggan", write_biggan(half=True))
    assert {p.dtype for p in generator.parameters()} == {torch.float32}
    assert generator(*inputs(generator)).isfinite().all()


@pytest.mark.parametrize("n_stats", [2, 8, 11, 50, 51])
def test_every_row_is_reached_alone(n_stats):
    from pytorch_pretrained_biggan.model import BigGANBatchNorm

    norm = BigGANBatchNorm(1, n_stats=n_stats, conditional=False)
    torch.nn.init.ones_(norm.weight)
    torch.nn.init.zeros_(norm.bias)
    norm.running_means[:, 0] = torch.arange(n_stats)
    for row in range(1, n_stats):
        argument = argument_for_row(row / (n_stats - 1), n_stats)
        assert 0 < argument <= 1
        used = -norm(torch.zeros(1, 1, 1, 1), argument).item() * math.sqrt(1 + norm.eps)
        assert used == pytest.approx(row, abs=1e-4)


@pytest.mark.parametrize("truncation", [0.14, 0.28, 0.56])
def test_truncation_the_package_gets_wrong_is_right_here(write_biggan, truncation):
    from pytorch_pretrained_biggan import BigGAN

    folder = write_biggan(n_stats=51)
    generator = load_generator("biggan", folder, truncation)
    assert generator.truncation == truncation
    z, soft = inputs(generator)
    reference = BigGAN.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        plain = reference(z, soft, truncation)
        for norm in reference.modules():
            if hasattr(norm, "running_means"):
                norm.running_means[:] = norm.running_means[round(truncation * 50)].clone()
                norm.running_vars[:] = norm.running_vars[round(truncation * 50)].clone()
        assert (generator(z, soft) - reference(z, soft, 1.0)).abs().max() < 1e-5
        assert (generator(z, soft) - plain).abs().max() > 1e-2  # else the fault this guards against is gone


def test_truncation_between_rows_says_what_fits(write_biggan):
    with pytest.raises(UserError, match=r"generator.truncation is 0.25.*multiples of 0.1 only. Use 0.2 or 0.3"):
        load_generator("biggan", write_biggan(), truncation=0.25)


def test_missing_files(write_biggan, tmp_path):
    folder = write_biggan()
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config.json"):
        load_generator("biggan", folder)
    with pytest.raises(UserError, match=r"has no config.json"):
        load_generator("biggan", tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"needs generator.path"):
        load_generator("biggan")


def test_keys_and_shapes_must_fit(write_biggan):
    folder = write_biggan("missing")
    change_state(folder, lambda state: state.pop("generator.bn.weight"))
    with pytest.raises(UserError, match=r"missing generator.bn.weight"):
        load_generator("biggan", folder)
    folder = write_biggan("unexpected")
    change_state(folder, lambda state: state.update(stranger=torch.zeros(1)))
    with pytest.raises(UserError, match=r"unexpected stranger"):
        load_generator("biggan", folder)
    folder = write_biggan("shape")
    change_state(folder, lambda state: state.update({"embeddings.weight": torch.zeros(4, 6)}))
    with pytest.raises(UserError, match=r"embeddings.weight \(4, 6\) instead of \(4, 5\)"):
        load_generator("biggan", folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_weights(write_biggan, value):
    folder = write_biggan()
    change_state(folder, lambda state: state["embeddings.weight"].view(-1)[:1].fill_(value))
    with pytest.raises(UserError, match=r"non-finite values in embeddings.weight"):
        load_generator("biggan", folder)


class Malice:
    def __reduce__(self):
        return print, ("code from a weights file ran",)


def test_code_in_a_weights_file_does_not_run(write_biggan, capsys):
    folder = write_biggan()
    torch.save({"x": Malice()}, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pytorch_model.bin is not a readable weights file"):
        load_generator("biggan", folder)
    assert "ran" not in capsys.readouterr().out


def test_garbage_files(write_biggan):
    folder = write_biggan()
    (folder / "pytorch_model.bin").write_bytes(b"not weights")
    with pytest.raises(UserError, match=r"not a readable weights file"):
        load_generator("biggan", folder)
    torch.save([1, 2], folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no state dict"):
        load_generator("biggan", folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json cannot be read as JSON"):
        load_generator("biggan", folder)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("z_dim", 0, "z_dim is 0"),
        ("num_classes", "5", "num_classes is '5'"),
        ("n_stats", 1, "n_stats is 1"),
        ("channel_width", None, "channel_width is None"),
        ("layers", [[True, 16, 5]], r"layers\[0\] is"),
        ("layers", [[True, 16, 8]], "leads from 16"),
        ("layers", "many", "leads from 16"),
    ],
)
def test_config_that_makes_no_biggan(write_biggan, key, value, message):
    folder = write_biggan()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(UserError, match=message):
        load_generator("biggan", folder)


def test_class_names(write_biggan):
    folder = write_biggan("names")
    assert load_generator("biggan", folder).classes == ("0", "1", "2", "3", "4")
    (folder / "classes.json").write_text('["a", "b", "c", "d", "e"]')
    assert load_generator("biggan", folder).classes == ("a", "b", "c", "d", "e")
    (folder / "classes.json").write_text('["a", "a", "c", "d", "e"]')
    with pytest.raises(UserError, match=r"4 distinct names.*num_classes 5"):
        load_generator("biggan", folder)
    (folder / "classes.json").write_text('{"a": 1}')
    with pytest.raises(UserError, match=r"list of class names"):
        load_generator("biggan", folder)
    names = load_generator("biggan", write_biggan("imagenet", num_classes=1000)).classes
    assert len(set(names)) == 1000
    assert names[0] == "tench"


def test_recorded_sum_is_held(write_biggan):
    folder = write_biggan()
    (folder / "sha256.json").write_text(json.dumps({"pytorch_model.bin": sha256(folder / "pytorch_model.bin")}))
    load_generator("biggan", folder)
    change_state(folder, lambda state: state["embeddings.weight"].zero_())
    with pytest.raises(UserError, match=r"differs from the SHA-256 recorded in sha256.json"):
        load_generator("biggan", folder)


def test_published_name_without_its_files_says_how_to_get_them(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"mpssl-fed fetch biggan-deep-256.*mpssl-fed/generators/biggan-deep-256"):
        load_generator("biggan-deep-256")


def test_published_name_is_found_in_the_cache_and_its_sum_recorded(write_biggan, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = cache_folder("biggan-deep-128")
    folder.parent.mkdir(parents=True)
    write_biggan("source").rename(folder)
    assert load_generator("biggan-deep-128").name == "biggan-deep-128"
    assert json.loads((folder / "sha256.json").read_text())["pytorch_model.bin"] == sha256(folder / "pytorch_model.bin")
    change_state(folder, lambda state: state["embeddings.weight"].zero_())
    with pytest.raises(UserError, match=r"differs from the SHA-256 recorded"):
        load_generator("biggan-deep-128")
