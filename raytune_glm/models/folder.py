"""Checkpoint folders, read without torch: what a sweep file's check may know in milliseconds.

Every refusal names the file and the remedy. Weights are not read, only the headers that say what is
in them, which is enough to tell a whole file from one that a full disk or a broken download cut
short. Read next: `loading`.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_glm.errors import ModelError

_INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
_SINGLES = ("model.safetensors", "pytorch_model.bin")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MAX_HEADER_BYTES = 100_000_000
"""Longest header that the safetensors format allows (its own reader's limit)."""


@dataclass(frozen=True, kw_only=True)
class TensorHeader:
    """What a safetensors header says about one tensor."""

    shape: tuple[int, ...]
    dtype: str


def local_folder(path: str | Path, *, with_weights: bool = True) -> Path:
    """Give the folder of a checkpoint, fetching it from the hub where `path` is a hub id.

    A path that is no folder here is taken for a hub id if it reads like one (`org/name`) and `org`
    is no folder here either.

    Args:
        path: A folder, or a hub id.
        with_weights: Fetch the weights too, and not the configuration and tokenizer alone.

    Raises:
        ModelError: There is no such folder, and it cannot be fetched.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise ModelError(
            f"a model must be a folder, but {path} is a file: give the folder that holds it."
        )
    name = str(path)
    if not _HUB_ID.fullmatch(name) or Path(name.partition("/")[0]).is_dir():
        raise ModelError(
            f"the model folder {path} does not exist: give the path of a folder with config.json, "
            "weights and tokenizer, or a hub id such as `org/name`."
        )
    return _fetch(name, with_weights=with_weights)


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """Read one of a checkpoint's JSON files, which must hold an object.

    Raises:
        ModelError: The file is not there, or broken.
    """
    path = folder / name
    if not path.is_file():
        raise ModelError(
            f"a model folder must hold {name}, but {folder} has none: it is no checkpoint, or not "
            "a whole one."
        )
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is not valid JSON ({error}): copy the file again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{path} must hold a JSON object, but holds a {type(value).__name__}.")
    return value


def read_optional_json(folder: Path, name: str) -> dict[str, Any]:
    """Read a JSON file like `read_json`, or give an empty object where there is none."""
    return read_json(folder, name) if (folder / name).is_file() else {}


def weight_files(folder: Path) -> tuple[Path, ...]:
    """List a checkpoint's weight files, safetensors before `.bin`, each one checked to be whole.

    Raises:
        ModelError: There are none, one of a sharded checkpoint is missing, or one is cut short.
    """
    files = _listed_weight_files(folder)
    for file in files:
        if not file.is_file():
            raise ModelError(
                f"the weights are incomplete: {folder} lists {file.name}, but the file is not "
                "there. Copy the checkpoint again."
            )
        if file.suffix == ".safetensors":
            read_header(file)
        elif _first_bytes(file, 2) == b"PK" and not zipfile.is_zipfile(file):
            raise _damaged(file, "its table of contents is missing")
    return files


def _first_bytes(file: Path, count: int) -> bytes:
    with file.open("rb") as opened:
        return opened.read(count)


def read_header(file: Path) -> dict[str, TensorHeader]:
    """Read the names, shapes and precisions in a safetensors file, and check that it is whole.

    The layout is documented by the safetensors project: 8 bytes of header length, a JSON header
    with offsets, the data up to the end of the file.

    Raises:
        ModelError: The header is broken, or the file is shorter or longer than the header says.
    """
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= min(_MAX_HEADER_BYTES, size):
            raise _damaged(file, "its header is broken")
        try:
            header = json.loads(stream.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: TensorHeader(shape=tuple(entry["shape"]), dtype=entry["dtype"])
                for name, entry in header.items()
            }
            data_bytes = max((entry["data_offsets"][1] for entry in header.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise _damaged(file, "its header is broken") from error
    if 8 + length + data_bytes != size:
        raise _damaged(file, f"it has {size} bytes where its header says {8 + length + data_bytes}")
    return tensors


def require_tokenizer(folder: Path, names: tuple[str, ...]) -> None:
    """Check that one of the files from which a tokenizer is built is there.

    Raises:
        ModelError: None is.
    """
    if not any((folder / name).is_file() for name in names):
        raise ModelError(
            f"a model folder must hold a tokenizer file ({' or '.join(names)}), but {folder} has "
            "none: copy it from where the weights came from."
        )


def check_quantization(config: Mapping[str, Any], quantization: str | None) -> None:
    """Refuse what does not go with a checkpoint whose weights are quantised already.

    Args:
        config: The checkpoint's `config.json`: `quantization_bit` in the published ChatGLM ones,
            `quantization_config` in those of transformers.
        quantization: What the user asks for.

    Raises:
        ModelError: It is to be quantised a second time, or has quantised embeddings.
    """
    kind = stored_quantization(config)
    if quantization is not None and kind is not None:
        raise ModelError(
            f"`quantization` must be left out for a checkpoint that is quantised already, but got "
            f"quantization={quantization!r} for one of {kind}: leave it out, or take the "
            "checkpoint that is not quantised."
        )
    if config.get("quantization_bit") and config.get("quantization_embeddings"):
        raise ModelError(
            "the embeddings of a checkpoint must not be quantised, but config.json has "
            "quantization_embeddings=true: take the checkpoint whose layers alone are."
        )


def stored_quantization(config: Mapping[str, Any]) -> str | None:
    """Say how a checkpoint's own weights are quantised, such as `int4`; None where they are not.

    Args:
        config: Its `config.json`.
    """
    num_bits, theirs = config.get("quantization_bit"), config.get("quantization_config")
    if num_bits:
        return f"int{num_bits}"
    if not theirs:
        return None
    method = theirs.get("quant_method") if isinstance(theirs, Mapping) else None
    return f"quant_method={method}"


def _listed_weight_files(folder: Path) -> tuple[Path, ...]:
    for single, index in zip(_SINGLES, _INDEXES, strict=True):
        if (folder / single).is_file():
            return (folder / single,)
        if (folder / index).is_file():
            weight_map = read_json(folder, index).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise ModelError(f"{folder / index} must list the weights under `weight_map`.")
            return tuple(folder / name for name in sorted(set(weight_map.values())))
    raise ModelError(
        f"a model folder must hold weights ({' or '.join(_SINGLES)}, or shards with an index), but "
        f"{folder} has none."
    )


def _damaged(file: Path, reason: str) -> ModelError:
    return ModelError(f"the weight file {file} is damaged: {reason}. Copy it again.")


def _fetch(hub_id: str, *, with_weights: bool) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    small = ["*.json", "*.model", "*.txt", "*.jinja"]
    try:
        # Published repositories may hold the same weights twice; one copy is enough.
        for weights in ("*.safetensors", "*.bin") if with_weights else (None,):
            patterns = small if weights is None else [*small, weights]
            fetched = Path(snapshot_download(hub_id, allow_patterns=patterns))
            if weights is not None and any(fetched.glob(weights)):
                break
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "no reason given")
        raise ModelError(
            f"{hub_id} is no folder here, and as a hub id it cannot be fetched "
            f"({type(error).__name__}: {reason}): "
            "check the path, or the name and the network."
        ) from error
    return fetched
