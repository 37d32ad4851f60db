"""``generator.name=diffusers``: a local folder that a pipeline's ``save_pretrained`` wrote, read file by file.

No class that a file names is looked up: the network and the schedulers below are the only ones that are ever built. Weights are
safetensors, compared with the network's shapes before memory is taken for them. Nothing here can reach the network.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from mpssl_fed.environment import extra
from mpssl_fed.errors import UserError
from mpssl_fed.files import plain_file
from mpssl_fed.generators.base import GENERATORS, check_generator
from mpssl_fed.generators.biggan import class_names, read_json, verify_sums
from mpssl_fed.generators.pipelines.sampler import Consistency, Implicit, PipelineGenerator, Schedule, SoftEmbedding

INDEX, NETWORK, SCHEDULER = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS, SAMPLING = "unet/diffusion_pytorch_model.safetensors", "sampling.json"
UNET = "UNet2DModel"
PIPELINES = {
    "ConsistencyModelPipeline": ("CMStochasticIterativeScheduler",),
    "DDIMPipeline": ("DDIMScheduler", "DDPMScheduler"),
    "DDPMPipeline": ("DDIMScheduler", "DDPMScheduler"),
}
"""Pipeline -> the schedulers that it may have here; both of the lower ones are sampled as DDIM without noise on the way."""

STEPS = {"ConsistencyModelPipeline": 1, "DDIMPipeline": 4, "DDPMPipeline": 4}
"""Pipeline -> steps, where sampling.json says nothing."""

MOST_SIDE, MOST_BLOCKS, MOST_CLASSES, MOST_STEPS = 512, 16, 100_000, 100_000


@GENERATORS.add("diffusers")
def load_pipeline(path: str | Path | None, truncation: float) -> PipelineGenerator:
    """Load the pipeline in the folder ``path`` and try it (:func:`check_generator`).

    sampling.json in it may say ``{"steps": 2}``, or for a consistency model ``{"timesteps": [22, 0]}``; classes.json the names of
    the classes (else ImageNet's for 1000, else numbers). Float16 weights become float32. UserError where the extra is not
    installed, and for a file that is missing, of another kind than its place says, or does not fit the others.
    """
    diffusers = extra("diffusers", "diffusers", "generator.name=diffusers")
    if path is None:
        raise UserError("generator 'diffusers' needs generator.path: a folder that a pipeline's save_pretrained wrote")
    folder = Path(path)
    pipeline, scheduler = _index(folder)
    verify_sums(folder)
    schedule, said = _schedule(diffusers, folder, pipeline, scheduler)
    unet, settings = _unet(diffusers, folder)
    classes = class_names(folder, settings["num_class_embeds"])
    generator = PipelineGenerator(unet, schedule, classes, truncation, json.dumps([said, settings], sort_keys=True))
    generator.eval().requires_grad_(False)
    check_generator(f"generator folder {folder}", generator)
    return generator


def _index(folder: Path) -> tuple[str, str]:
    """Return the names of the pipeline and its scheduler; UserError unless all files are there and they are known here."""
    if not folder.is_dir():
        raise UserError(f"generator.path={folder}: no such folder; it must be one that a pipeline's save_pretrained wrote")
    pickled = sorted(file.name for file in (folder / "unet").glob("*.bin")) if (folder / "unet").is_dir() else []
    for file in (INDEX, NETWORK, SCHEDULER, WEIGHTS):
        if not (folder / file).is_file():
            cure = f"; {pickled[0]} is a pickle, which is not opened: save it again with safe_serialization=True" if pickled else ""
            dead = ", but a link to nothing; fetch it again" if (folder / file).is_symlink() else ""
            raise UserError(f"generator folder {folder} has no {file}{dead or (cure if file == WEIGHTS else '')}")
    index = _object(folder / INDEX)
    pipeline, scheduler = index.get("_class_name"), index.get("scheduler")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        raise UserError(f"{folder / INDEX}: _class_name is {_short(pipeline)}; it must be {', '.join(PIPELINES)}")
    if index.get("unet") != ["diffusers", UNET]:
        raise UserError(f'{folder / INDEX}: unet is {_short(index.get("unet"))}; it must be ["diffusers", "{UNET}"]')
    wanted = PIPELINES[pipeline]
    if not isinstance(scheduler, list) or len(scheduler) != 2 or scheduler[0] != "diffusers" or scheduler[1] not in wanted:
        raise UserError(f"{folder / INDEX}: scheduler is {_short(scheduler)}; of {pipeline} it must be {' or '.join(wanted)}")
    return pipeline, scheduler[1]


def _schedule(diffusers: Any, folder: Path, pipeline: str, name: str) -> tuple[Schedule, dict[str, Any]]:
    file = folder / SCHEDULER
    settings = _settings(file, name, getattr(diffusers, name))
    trained = settings.get("num_train_timesteps", 1)
    if type(trained) is not int or not 1 <= trained <= MOST_STEPS:  # a table of so many rows is made of it
        raise UserError(f"{file}: num_train_timesteps is {_short(trained)}; it must be a whole number from 1 to {MOST_STEPS:,}")
    consistency = pipeline == "ConsistencyModelPipeline"
    kind = getattr(diffusers, name if consistency else "DDIMScheduler")
    sampling = _sampling(folder / SAMPLING, STEPS[pipeline], consistency)
    try:
        scheduler = kind.from_config(settings)
        scheduler.set_timesteps(sampling.get("steps"), **{k: v for k, v in sampling.items() if k == "timesteps"})
    except (TypeError, ValueError, NotImplementedError, RuntimeError, IndexError, ZeroDivisionError) as error:
        raise UserError(f"{file}: no {name} can be made of it with {json.dumps(sampling)}: {error}") from error
    return (Consistency if consistency else Implicit)(scheduler), {"scheduler": name, **settings, "sampling": sampling}


def _sampling(file: Path, steps: int, consistency: bool) -> dict[str, Any]:
    said = _object(file) if file.is_file() else {"steps": steps}
    known = ("steps", "timesteps") if consistency else ("steps",)
    if len(said) != 1 or next(iter(said)) not in known:
        raise UserError(f"{file}: holds {_short(sorted(said))}; it must hold {' or '.join(known)} alone")
    given = said.get("timesteps", [said.get("steps")])
    if not isinstance(given, list) or not given or not all(type(one) is int and 0 <= one <= 1000 for one in given):
        raise UserError(f"{file}: {_short(said)}; want whole numbers, steps from 1 to 1000, timesteps falling from below 1000")
    if said.get("steps") == 0:
        raise UserError(f"{file}: steps is 0; want 1 to 1000")
    return said


def _unet(diffusers: Any, folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network with its weights, and its settings; its class embedding takes soft labels."""
    file = folder / NETWORK
    settings = _settings(file, UNET, diffusers.UNet2DModel)
    _require_conditional(file, settings)
    try:
        with torch.device("meta"):
            unet = diffusers.UNet2DModel(**settings)
            unet.class_embedding = SoftEmbedding(settings["num_class_embeds"], unet.class_embedding.weight.shape[1])
    except Exception as error:  # settings of another kind make it raise anything
        raise UserError(f"{file}: no {UNET} can be made of it: {type(error).__name__}: {error}") from error
    unet.load_state_dict(_weights(folder / WEIGHTS, unet), assign=True)
    unet.enable_gradient_checkpointing()
    return unet, settings


def _require_conditional(file: Path, settings: dict[str, Any]) -> None:
    """Raise UserError unless the network takes one of two or more classes and draws square images of 1 or 3 channels."""
    side = settings.get("sample_size")
    if isinstance(side, list) and len(set(map(repr, side))) == 1:
        side = settings["sample_size"] = side[0]
    if type(side) is not int or not 8 <= side <= MOST_SIDE:
        raise UserError(f"{file}: sample_size is {_short(side)}; it must be a whole number from 8 to {MOST_SIDE}")
    classes, kind = settings.get("num_class_embeds"), settings.get("class_embed_type")
    if type(classes) is not int or not 2 <= classes <= MOST_CLASSES or kind is not None:
        raise UserError(
            f"{file}: num_class_embeds is {_short(classes)} and class_embed_type {_short(kind)}; a generator here has a table of "
            "two or more class embeddings: num_class_embeds=K, class_embed_type=null"
        )
    channels = settings.setdefault("in_channels", 3), settings.setdefault("out_channels", 3)
    if channels not in ((1, 1), (3, 3)):
        raise UserError(f"{file}: in_channels and out_channels are {channels[0]!r} and {channels[1]!r}; want both 1, or both 3")
    blocks, layers = settings.get("block_out_channels", ()), settings.get("layers_per_block", 2)
    if not isinstance(blocks, list | tuple) or len(blocks) > MOST_BLOCKS or type(layers) is not int or layers > MOST_BLOCKS:
        raise UserError(f"{file}: block_out_channels or layers_per_block is no list or number of at most {MOST_BLOCKS}")


def _weights(file: Path, unet: nn.Module) -> dict[str, Tensor]:
    """Return the file's tensors in float32; UserError unless their names and shapes are those of ``unet`` and they are finite."""
    wanted = {key: list(value.shape) for key, value in unet.state_dict().items()}
    try:
        with safe_open(plain_file(file), framework="pt") as content:
            found = {key: list(content.get_slice(key).get_shape()) for key in content.keys()}  # noqa: SIM118
            wrong = sorted(wanted.keys() ^ found.keys()) or [key for key in wanted if wanted[key] != found[key]]
            if wrong:
                key = wrong[0]
                said = f"{key} is {found.get(key, 'missing')}, want {wanted.get(key, 'no such tensor')}"
                raise UserError(f"{file} does not fit {NETWORK}: {said}; {len(wrong)} tensor(s) differ")
            state = {key: content.get_tensor(key).float() for key in wanted}
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{file} is no readable safetensors file: {error}") from error
    bad = [key for key, value in state.items() if not value.isfinite().all()]
    if bad:
        raise UserError(f"{file}: non-finite values in {bad[0]}; the file is damaged, or its training diverged")
    return state


def _settings(file: Path, name: str, kind: Any) -> dict[str, Any]:
    """Return the settings in a config of the class ``name``; UserError where it is another's, or has a key that this one lacks."""
    said = _object(file)
    if said.get("_class_name") != name:
        raise UserError(f"{file}: _class_name is {_short(said.get('_class_name'))}, but {INDEX} says {name}")
    settings = {key: value for key, value in said.items() if not key.startswith("_")}
    unknown = sorted(settings.keys() - inspect.signature(kind.__init__).parameters.keys())
    if unknown:
        raise UserError(f"{file}: the installed {name} has no {unknown[0]}; a newer diffusers, or something else, wrote it")
    return settings


def _object(file: Path) -> dict[str, Any]:
    said = read_json(file)
    if not isinstance(said, dict):
        raise UserError(f"{file} must hold a JSON object")
    return said


def _short(value: object) -> str:
    return f"{json.dumps(value, default=repr):.80}"
