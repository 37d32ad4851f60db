"""Files of pre-trained weights (``model.pretrained``): state dicts, read without running what is in them."""

from __future__ import annotations

import re
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor

from mpssl_fed.errors import UserError
from mpssl_fed.files import sha256


def read_state_dict(file: str | Path, cure: str = "", key: str = "model.pretrained") -> dict[str, Tensor]:
    """Return the named tensors in ``file``. UserError, naming ``key`` and the file, for one that is missing or no state dict.

    cure: what is said where there is no such file.
    """
    if not Path(file).is_file():
        raise UserError(f"{key}={file}: no such file{cure}")
    _require_named_bytes(Path(file), key)
    try:
        if Path(file).suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError as error:  # torch's own words tell how to open it nevertheless
        why = "it is damaged, or holds more than named tensors, and such a pickle is not opened"
        raise UserError(f"{key}={file}: no readable weights file: {why}") from error
    except Exception as error:  # bytes that are no pickle make torch's unpickler raise anything
        raise UserError(
            f"{key}={file}: no readable weights file: {type(error).__name__}: {str(error).partition(chr(10))[0][:200]}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{key}={file}: holds no state dict (a table of named tensors)")
    return state


def require_fit(state: dict[str, Tensor], own: dict[str, Tensor], name: str, where: str) -> None:
    """Raise UserError, beginning with ``where``, unless ``state`` has the keys and shapes of ``own`` and is finite."""
    wrong = sorted(own.keys() ^ state.keys()) or [key for key in own if own[key].shape != state[key].shape]
    if wrong:
        raise UserError(f"{where}: keys or shapes are not those of {name}: {', '.join(wrong[:4])}")
    if not all(torch.isfinite(value).all() for value in state.values()):
        raise UserError(f"{where}: holds weights that are not finite; fetch the file again")


def _require_named_bytes(file: Path, key: str) -> None:
    """Raise UserError, before it is unpickled, for a file whose SHA-256 does not begin with the digits that its name says."""
    named = re.search(r"-([0-9a-f]{8})\.pth$", file.name)
    if named and not (found := sha256(file)).startswith(named[1]):
        raise UserError(f"{key}={file}: its SHA-256 is {found}, which does not begin with {named[1]}; fetch it again")
