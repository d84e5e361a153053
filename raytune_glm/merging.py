"""A base and what was trained on it, written as one checkpoint: weight by weight, never the model.

The base's files are read one tensor at a time and written under their own names, so a merge takes
the memory of a shard. Arithmetic is fp32; each weight is rounded once, as it is written. Read next:
`methods.changes`, `models.tensors`.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from raytune_glm import files
from raytune_glm.errors import ConfigError, ModelError, ResourceError
from raytune_glm.models import Precision
from raytune_glm.models import folder as folders
from raytune_glm.models.llama_original import OUTPUT, PARAMS, TOKENIZER, WEIGHTS, OriginalLlama

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from raytune_glm.methods import Method
    from raytune_glm.methods.changes import Changes
    from raytune_glm.models.tensors import StoredTensors
    from raytune_glm.tuned import Tuned

Layout = Literal["hf", "state_dict"]
"""`hf`: the base's own, as transformers reads it; `state_dict`: LLaMA's original one."""
Progress = Callable[[int, int], None]
"""Told of bytes written and of all bytes to write."""

ABOUT = "merged_from.json"
_COPIED_SUFFIXES = {".json", ".model", ".txt", ".py", ".jinja", ".tiktoken", ".vocab"}
_NOT_COPIED = ("adapter_config.json", "trainer_state.json", ABOUT)
_COPIED_WORDS = ("license", "notice")
_TORCH_NAMES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


@dataclass(frozen=True, kw_only=True)
class Merged:
    """What a merge wrote."""

    num_weights: int
    changed: int
    """Weights that are not as they were in the base, as written."""
    num_bytes: int


@dataclass(kw_only=True)
class _Merge:
    """A merge on its way: what is to be written, and what has been."""

    stored: StoredTensors
    changes: Changes
    precision: Precision | None
    sources: Mapping[str, str]
    """Name of each weight to write -> the base's weight that it is made of: itself, but for tied
    weights that come apart."""
    partners: Mapping[str, str]
    """Tied weight -> the other one of the pair."""
    report: Progress
    changed: set[str] = field(default_factory=set)

    def dtype(self, name: str) -> torch.dtype:
        """The precision in which a weight is written."""
        import torch

        own = self.stored.known[self.sources[name]].dtype
        if self.precision is None or not own.is_floating_point:
            return own
        wanted: torch.dtype = getattr(torch, _TORCH_NAMES[self.precision])
        return wanted

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each weight to write."""
        return {
            name: self.stored.known[source].num_values * self.dtype(name).itemsize
            for name, source in self.sources.items()
        }

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Give each weight as it is to be written."""
        sizes = self.sizes
        total, written = sum(sizes.values()), 0
        for name, size in sizes.items():
            tensor = self._tensor(name)
            written += size
            self.report(written, total)
            yield name, tensor

    def _tensor(self, name: str) -> Tensor:
        import torch

        old, dtype = self.stored.read(self.sources[name]), self.dtype(name)
        # A copy: two names of one tensor in a file of torch's cannot be written as one.
        kept = old.to(dtype, copy=True).contiguous()
        change = self.changes.by_name.get(name)
        if change is None and self.changes.ties_hold:
            change = self.changes.by_name.get(self.partners.get(name, name))
        if change is None:
            return kept
        new = change(old.float()).to(dtype).contiguous()
        if not bool(torch.isfinite(new).all()):
            raise ModelError(
                f"merged weights must be finite numbers, but those of {name} are not in {dtype}: "
                "write --precision bf16 or fp32; if that does not help, the adapter is damaged."
            )
        if not torch.equal(new, kept):
            self.changed.add(name)
        return new


def merge(
    tuned: Tuned,
    out: Path,
    *,
    layout: Layout,
    precision: Precision | None,
    max_shard_bytes: int,
    report: Progress,
) -> Merged:
    """Write the merged checkpoint to a new folder, which is there whole or not at all.

    Args:
        tuned: A base and what was trained on it.
        out: The folder; it must not exist.
        layout: Names and files.
        precision: Of the written weights; None: as the base's files have them.
        max_shard_bytes: Largest weight file of the layout `hf`.
        report: Told of the progress.

    Raises:
        ConfigError: What was trained changes no weight of the base, or the layout does not fit.
        ModelError: A file is missing or broken.
        ResourceError: The disk has not the room.
    """
    from raytune_glm.models.tensors import StoredTensors, write_shards

    changes = check_mergeable(tuned, out, layout).changes(_folder(tuned))
    base = folders.local_folder(tuned.base.path)
    config = folders.read_json(base, "config.json")
    with StoredTensors(base, num_bits=int(config.get("quantization_bit") or 0)) as stored:
        partners = _partners(tuned)
        merging = _Merge(
            stored=stored,
            changes=changes,
            precision=precision,
            sources=_sources(stored.known, changes, partners),
            partners=partners,
            report=report,
        )
        _refuse_strangers(tuned, merging)
        sizes = merging.sizes
        _require_room(out, sum(sizes.values()))
        with files.new_folder(out) as folder:
            if layout == "hf":
                write_shards(folder, merging.tensors(), sizes, max_shard_bytes)
                _copy_small_files(base, folder)
                files.write_json(folder / "config.json", _merged_config(config, merging))
            else:
                original = tuned.checkpoint.family.original_layout(config)
                _write_original(folder, base, original, merging)
            if not merging.changed:
                raise ConfigError(
                    f"a merge must change the base, but {tuned.folder} changes no weight of "
                    f"{tuned.base.path} as it would be written: it was not trained, or its steps "
                    "are too small for the precision of the files (then write --precision fp32)"
                )
            files.write_json(folder / ABOUT, _about(tuned, layout, precision))
    return Merged(
        num_weights=len(sizes), changed=len(merging.changed), num_bytes=sum(sizes.values())
    )


def check_mergeable(tuned: Tuned, out: Path, layout: Layout) -> Method:
    """Refuse, without importing torch, what cannot be merged or written.

    Returns:
        The method that trained what is to be merged.

    Raises:
        ConfigError: Nothing was trained, the output exists, or the layout does not fit.
        ModelError: The base is quantised in a way that cannot be undone here.
    """
    if tuned.method is None:
        raise ConfigError(
            f"a merge needs what was trained, but {tuned.base.path} is a model by itself: name an "
            "adapter's folder, a trial's, or a sweep's results"
        )
    if out.exists():
        raise ConfigError(
            f"a merge writes a new folder, but {out} exists: name another, or remove it"
        )
    config = tuned.checkpoint.config
    if layout == "state_dict":
        tuned.checkpoint.family.original_layout(config)
    if config.get("quantization_config"):
        raise ModelError(
            f"a base to merge into must hold plain weights, but {tuned.base.path} is quantised by "
            "another library (quantization_config): give the checkpoint that it was made from as "
            "model.path=<folder>."
        )
    return tuned.method


def _folder(tuned: Tuned) -> Path:
    assert tuned.folder is not None, "what a method trained is in a folder"
    return tuned.folder


def _partners(tuned: Tuned) -> dict[str, str]:
    from raytune_glm.models.loading import tied_weights

    tied = tied_weights(tuned.checkpoint.config, tuned.checkpoint.family)
    return {**tied, **{source: name for name, source in tied.items()}}


def _sources(
    stored: Iterable[str], changes: Changes, partners: Mapping[str, str]
) -> dict[str, str]:
    """Name what is to be written: what is stored, and tied weights that come apart."""
    sources = {name: name for name in stored}
    if not changes.ties_hold:
        for name in changes.by_name.keys() & partners.keys():
            for one, other in ((name, partners[name]), (partners[name], name)):
                if one not in sources and other in sources:
                    sources[one] = other
    return sources


def _refuse_strangers(tuned: Tuned, merging: _Merge) -> None:
    """Refuse a change of what is not among the base's weights: it would be lost without a word."""
    known = merging.sources.keys()
    missing = [
        name
        for name in merging.changes.by_name
        if name not in known and merging.partners.get(name) not in known
    ]
    if missing:
        raise ModelError(
            f"what is merged must change weights of the base, but {tuned.folder} changes "
            f"{', '.join(sorted(missing)[:3])}, which the files of {tuned.base.path} do not have: "
            "give the base that it was trained on as model.path=<folder>."
        )


def _require_room(out: Path, num_bytes: int) -> None:
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    free = shutil.disk_usage(parent).free
    if free < num_bytes:
        raise ResourceError(
            f"the merged model takes {num_bytes / 1e9:.1f} GB, but {parent} has {free / 1e9:.1f} "
            "GB left: make room, or name a folder on another disk"
        )


def _copy_small_files(base: Path, folder: Path) -> None:
    """Copy all of a checkpoint that is neither weights nor config: tokenizer, licence, code."""
    for file in sorted(base.iterdir()):
        is_wanted = file.suffix in _COPIED_SUFFIXES or any(
            word in file.name.lower() for word in _COPIED_WORDS
        )
        is_index = file.name.endswith(".index.json")
        if file.is_file() and is_wanted and not is_index and file.name not in _NOT_COPIED:
            shutil.copyfile(file, folder / file.name)


def _merged_config(config: Mapping[str, Any], merging: _Merge) -> dict[str, Any]:
    """Say in `config.json` what is no longer as in the base's; all else stays word for word."""
    merged = dict(config)
    was_packed = bool(config.get("quantization_bit"))
    if was_packed:
        merged["quantization_bit"] = 0
    if merging.precision is not None or was_packed:
        largest = max(merging.sizes, key=merging.sizes.__getitem__)
        key = "dtype" if "dtype" in config else "torch_dtype"
        merged[key] = str(merging.dtype(largest)).removeprefix("torch.")
    if len(merging.sources) > len(merging.stored.known):
        merged["tie_word_embeddings"] = False
    return merged


def _write_original(folder: Path, base: Path, layout: OriginalLlama, merging: _Merge) -> None:
    """Write LLaMA's original files. torch writes a file at once, so here the model is in memory."""
    import torch

    if OUTPUT in merging.sources:
        layout = replace(layout, is_tied=False)
    weights = {
        original: layout.convert(name, tensor)
        for name, tensor in merging.tensors()
        for original in layout.names(name)
    }
    torch.save(weights, folder / WEIGHTS)
    files.write_json(folder / PARAMS, dict(layout.params))
    if (base / TOKENIZER).is_file():
        shutil.copyfile(base / TOKENIZER, folder / TOKENIZER)


def _about(tuned: Tuned, layout: Layout, precision: Precision | None) -> dict[str, Any]:
    assert tuned.method is not None, "a base alone is not merged"
    return {
        "base": tuned.base.path,
        "trained": str(_folder(tuned).resolve()),
        "method": tuned.method.name,
        "format": layout,
        "precision": precision or "as the base's files",
    }
