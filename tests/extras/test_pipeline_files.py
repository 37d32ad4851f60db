"""A folder of diffusers in which a file is missing, mislabelled or damaged is refused by that file's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers", reason="the extra [diffusers] is not installed: make test-extras")

from safetensors.torch import load_file, save_file

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256, write_json
from mpssl_fed.generators import load_generator
from mpssl_fed.generators.files import copy_approved, sums
from tests.extras import folders
from tests.extras.hub_cache import into_cache
from tests.generators.traps import write_trap

INDEX, NETWORK, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
FILES = (INDEX, NETWORK, SCHEDULER, WEIGHTS)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return folders.consistency(tmp_path / "pipeline")


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        load_generator("diffusers", folder)
    assert str(folder) in str(error.value)
    return str(error.value)


def change(folder: Path, file: str, **keys: Any) -> None:
    write_json(folder / file, {**json.loads((folder / file).read_text()), **keys})


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_missing(folder: Path, file: str) -> None:
    (folder / file).unlink()
    assert refused(folder) == f"generator folder {folder} has no {file}"


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_is_damaged(folder: Path, file: str) -> None:
    (folder / file).write_bytes((folder / file).read_bytes()[:-20])
    assert str(folder / file) in refused(folder)


def test_no_folder_or_another_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"needs generator\.path"):
        load_generator("diffusers")
    assert "no such folder" in refused(folder / "nowhere")
    assert "no such folder" in refused(folder / INDEX)
    (tmp_path / "empty").mkdir()
    assert f"has no {INDEX}" in refused(tmp_path / "empty")


@pytest.mark.parametrize(
    ("file", "keys", "words"),
    [
        (INDEX, {"_class_name": "StableDiffusionPipeline"}, '_class_name is "StableDiffusionPipeline"; it must be Consistency'),
        (INDEX, {"_class_name": ["os", "system"]}, "_class_name is"),
        (INDEX, {"unet": ["my_module", "UNet2DModel"]}, 'it must be ["diffusers", "UNet2DModel"]'),
        (INDEX, {"scheduler": ["diffusers", "DDPMScheduler"]}, "of ConsistencyModelPipeline it must be CMStochastic"),
        (INDEX, {"scheduler": ["diffusers", ["a"]]}, "scheduler is"),
        (INDEX, {"_class_name": "DDPMPipeline"}, "of DDPMPipeline it must be DDIMScheduler or DDPMScheduler"),
        (NETWORK, {"_class_name": "UNet2DConditionModel"}, "but model_index.json says UNet2DModel"),
        (SCHEDULER, {"_class_name": "DDPMScheduler"}, "but model_index.json says CMStochasticIterativeScheduler"),
        (SCHEDULER, {"beta_start": 1e-4}, "the installed CMStochasticIterativeScheduler has no beta_start"),
        (SCHEDULER, {"num_train_timesteps": "many"}, 'num_train_timesteps is "many"'),
        (SCHEDULER, {"num_train_timesteps": 10**12}, "it must be a whole number from 1 to 100,000"),
        (SCHEDULER, {"sigma_min": "small"}, "no CMStochasticIterativeScheduler can be made of it"),
        (NETWORK, {"num_class_embeds": None}, "num_class_embeds is null"),
        (NETWORK, {"class_embed_type": "timestep"}, 'class_embed_type "timestep"'),
        (NETWORK, {"num_class_embeds": 7}, "class_embedding.weight"),
        (NETWORK, {"in_channels": 4}, "in_channels and out_channels are 4 and 3"),
        (NETWORK, {"sample_size": None}, "sample_size is null"),
        (NETWORK, {"sample_size": [16, 24]}, "sample_size is [16, 24]"),
        (NETWORK, {"sample_size": 17}, "failed to draw images"),
        (NETWORK, {"layers_per_block": 10**9}, "layers_per_block"),
        (NETWORK, {"block_out_channels": [8, 10**6]}, "does not fit unet/config.json"),
        (NETWORK, {"down_block_types": ["DownBlock2D", "Nothing"]}, "no UNet2DModel can be made of it"),
        (NETWORK, {"memory": 1}, "the installed UNet2DModel has no memory"),
    ],
)
def test_a_file_that_says_something_else(folder: Path, file: str, keys: dict[str, Any], words: str) -> None:
    change(folder, file, **keys)
    said = refused(folder)
    assert words in said
    assert file.rpartition("/")[2] in said or "failed to draw" in said


def test_a_square_written_as_two_sides_is_one(folder: Path) -> None:
    change(folder, NETWORK, sample_size=[16, 16])
    assert load_generator("diffusers", folder).size == 16


@pytest.mark.parametrize(
    "said", [{"steps": 0}, {"steps": 41}, {"steps": 2, "timesteps": [1, 0]}, {"timesteps": []}, {"pace": 1}, 3]
)
def test_a_sampler_that_cannot_be(folder: Path, said: object) -> None:
    write_json(folder / "sampling.json", said)
    assert "sampling.json" in refused(folder) or "scheduler_config.json" in refused(folder)


def test_timesteps_that_rise_and_those_of_another_pipeline(folder: Path, tmp_path: Path) -> None:
    write_json(folder / "sampling.json", {"timesteps": [0, 22]})
    assert "descending" in refused(folder)
    other = folders.ddpm(tmp_path / "ddpm")
    write_json(other / "sampling.json", {"timesteps": [22, 0]})
    assert "it must hold steps alone" in refused(other)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda state: state.pop("conv_in.bias"), "conv_in.bias is missing, want [8]"),
        (lambda state: state.update(extra=torch.zeros(2)), "extra is [2], want no such tensor"),
        (lambda state: state.update({"conv_in.bias": torch.zeros(9)}), "conv_in.bias is [9], want [8]"),
        (lambda state: state["conv_in.bias"].fill_(torch.nan), "non-finite values in conv_in.bias"),
    ],
)
def test_weights_that_do_not_fit(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object], words: str) -> None:
    state = load_file(folder / WEIGHTS)
    edit(state)
    save_file(state, folder / WEIGHTS)
    assert words in refused(folder)


def test_weights_of_16_bits_are_widened(folder: Path) -> None:
    whole = load_generator("diffusers", folder)
    save_file({key: value.half() for key, value in load_file(folder / WEIGHTS).items()}, folder / WEIGHTS)
    half = load_generator("diffusers", folder)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    z, label = whole.sample_z(2, torch.Generator().manual_seed(0)), torch.eye(5)[:2]
    torch.testing.assert_close(half(z, label), whole(z, label), rtol=0, atol=2e-2)


def test_the_hub_s_cache_is_read_through_its_links(folder: Path, tmp_path: Path) -> None:
    whole, listed = load_generator("diffusers", folder).state_hash(), sums(folder)
    snapshot = into_cache(folder, tmp_path / "hub" / "models--owner--pipeline")
    assert load_generator("diffusers", snapshot).state_hash() == whole
    assert sums(snapshot) == listed  # what a policy lists
    copy = copy_approved(snapshot, listed, tmp_path / "copy")
    assert load_generator("diffusers", copy).state_hash() == whole
    state = load_file(snapshot / WEIGHTS)
    state["conv_in.bias"] += 1
    save_file(state, tmp_path / "elsewhere.safetensors")
    (snapshot / WEIGHTS).unlink()
    (snapshot / WEIGHTS).symlink_to(tmp_path / "elsewhere.safetensors")  # out of the cache: the content is what counts
    assert load_generator("diffusers", snapshot).state_hash() != whole
    write_json(snapshot / "sha256.json", {WEIGHTS: (snapshot / WEIGHTS).readlink().name})
    assert "differs from the SHA-256 recorded in sha256.json" in refused(snapshot)
    (snapshot / "sha256.json").unlink()
    (tmp_path / "elsewhere.safetensors").unlink()
    assert refused(snapshot) == f"generator folder {snapshot} has no {WEIGHTS}, but a link to nothing; fetch it again"
    for target in ("/dev/zero", "/etc"):
        (snapshot / INDEX).unlink()
        (snapshot / INDEX).symlink_to(target)
        assert INDEX in refused(snapshot)


def test_a_pickle_is_not_opened(folder: Path, tmp_path: Path) -> None:
    write_trap(folder / "unet" / "diffusion_pytorch_model.bin", tmp_path / "marker")
    (folder / WEIGHTS).unlink()
    assert "diffusion_pytorch_model.bin is a pickle, which is not opened" in refused(folder)
    assert not (tmp_path / "marker").exists()


def test_a_recorded_sum_is_kept_to(folder: Path) -> None:
    write_json(folder / "sha256.json", {file: sha256(folder / file) for file in FILES})
    assert load_generator("diffusers", folder).size == 16
    change(folder, SCHEDULER, sigma_max=70.0)
    assert "differs from the SHA-256 recorded in sha256.json" in refused(folder)
