"""The weights of a checkpoint on disk, one at a time: read, and written in shards.

Neither side ever holds the model: a tensor that is read is mapped from its file, and a shard is in
memory while it is written. Read next: `raytune_glm.merging`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from raytune_glm import files
from raytune_glm.errors import ModelError
from raytune_glm.models import folder as folders
from raytune_glm.models.chatglm.packed import unpack

_SINGLE = "model.safetensors"
_SCALE = "_scale"
"""Ends the name of the scales of a packed weight, in the published int8 and int4 checkpoints."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """What is known of a tensor before it is read, packed ones as they will be unpacked."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    num_bits: int | None = None
    """Bits of a packed weight; None where it is a plain one."""

    @property
    def num_values(self) -> int:
        """Elements of the tensor."""
        return int(torch.Size(self.shape).numel())


class StoredTensors:
    """The tensors of a checkpoint folder; a context that keeps its files open.

    Args:
        folder: The checkpoint.
        num_bits: `quantization_bit` of its `config.json`; packed weights are unpacked to fp16, and
            their scales are not among the tensors.
    """

    def __init__(self, folder: Path, *, num_bits: int = 0) -> None:
        self._num_bits = num_bits
        self._open = ExitStack()
        self._places: dict[str, Any] = {}
        for file in folders.weight_files(folder):
            self._places |= dict.fromkeys(*self._opened(file))
        packed = {name for name in self._places if f"{name}{_SCALE}" in self._places}
        self.known = {
            name: self._look(name, is_packed=name in packed)
            for name in self._places
            if name.removesuffix(_SCALE) not in packed or not name.endswith(_SCALE)
        }

    def __enter__(self) -> StoredTensors:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.close()

    def _opened(self, file: Path) -> tuple[Sequence[str], Any]:
        """Open a weight file; give the names in it and what gives a tensor by its name."""
        if file.suffix == ".safetensors":
            from safetensors import safe_open

            reader = self._open.enter_context(safe_open(file, framework="pt"))
            return list(reader.keys()), reader
        try:
            held = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        except (RuntimeError, ValueError):  # the old format cannot be mapped
            held = torch.load(file, map_location="cpu", weights_only=True)
        return list(held), held

    def _look(self, name: str, *, is_packed: bool) -> Stored:
        place = self._places[name]
        if isinstance(place, Mapping):
            shape, dtype = tuple(place[name].shape), place[name].dtype
        else:
            view = place.get_slice(name)
            shape, dtype = tuple(view.get_shape()), _SAFETENSORS_DTYPES.get(view.get_dtype())
            if dtype is None:
                raise ModelError(
                    f"weights must be of a precision that can be computed with, but {name} is "
                    f"{view.get_dtype()}: take the checkpoint that is not quantised."
                )
        if not is_packed:
            return Stored(shape=shape, dtype=dtype)
        columns = shape[1] * (2 if self._num_bits == 4 else 1)
        return Stored(shape=(shape[0], columns), dtype=torch.float16, num_bits=self._num_bits)

    def read(self, name: str) -> Tensor:
        """Read a tensor, unpacked where it is packed."""
        tensor = self._plain(name)
        num_bits = self.known[name].num_bits
        if num_bits is None:
            return tensor
        return unpack(tensor, self._plain(f"{name}{_SCALE}"), num_bits=num_bits)

    def _plain(self, name: str) -> Tensor:
        place = self._places[name]
        tensor: Tensor = place[name] if isinstance(place, Mapping) else place.get_tensor(name)
        return tensor


_SAFETENSORS_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def plan_shards(sizes: Mapping[str, int], max_bytes: int) -> dict[str, list[str]]:
    """Divide tensors among files, in their order, none larger than allowed if it can be helped.

    Args:
        sizes: Name of a tensor -> its bytes.
        max_bytes: Largest file; a tensor that is larger has one of its own.

    Returns:
        File name, as transformers names shards -> the tensors in it.
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > max_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        return {_SINGLE: shards[0]}
    return {
        f"model-{number:05}-of-{len(shards):05}.safetensors": names
        for number, names in enumerate(shards, start=1)
    }


def write_shards(
    folder: Path, tensors: Iterator[tuple[str, Tensor]], sizes: Mapping[str, int], max_bytes: int
) -> None:
    """Write a checkpoint's tensors, and the index where there is more than one file.

    Args:
        folder: Where to; it exists.
        tensors: Names and tensors, in the order of `sizes`.
        sizes: Name of a tensor -> its bytes.
        max_bytes: See `plan_shards`.
    """
    from safetensors.torch import save_file

    shards = plan_shards(sizes, max_bytes)
    for file, names in shards.items():
        shard = dict(itertools.islice(tensors, len(names)))
        save_file(shard, folder / file, metadata={"format": "pt"})
    if len(shards) > 1:
        weight_map = {name: file for file, names in shards.items() for name in names}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        files.write_json(folder / f"{_SINGLE}.index.json", index)
