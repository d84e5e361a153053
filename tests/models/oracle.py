"""Reading the fixtures that the original ChatGLM code computed (`../shared/oracle/README.md`)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from raytune_glm.models import FAMILIES

FAMILY_NAMES = ["chatglm", "chatglm2", "chatglm3"]
VARIANTS = ["base", "ptuning_projection", "ptuning_embedding"]

LOGITS = 1e-4
HIDDEN = 3e-5
LOSS = 1e-5
GRADIENT = 2e-5
PREFIX = 1e-6
"""Greatest absolute differences that the fixtures' README demands in fp32."""

UNNORMED = 1e-4
"""For states before the final norm, which in ChatGLM are some 20 times as large as after it."""


@dataclass(frozen=True)
class Case:
    """One computation of the original, and what it gave."""

    folder: Path
    entry: dict[str, Any]
    tensors: dict[str, torch.Tensor]

    @property
    def name(self) -> str:
        return self.entry["name"]

    @property
    def expect(self) -> dict[str, Any]:
        return self.entry["expect"]

    @cached_property
    def inputs(self) -> dict[str, torch.Tensor]:
        given = {
            key: self.tensors[name]
            for key, name in self.entry["inputs"].items()
            if name is not None
        }
        mask = given.get("attention_mask")
        if mask is not None and mask.dim() == 4:
            given["attention_mask"] = mask.bool()
        return given

    def expected(self, what: str) -> torch.Tensor:
        return self.tensors[self.expect[what]]

    @property
    def valid(self) -> torch.Tensor:
        """Which rows and columns may be compared; the others are pads."""
        mask = self.entry.get("compare_mask")
        ids = self.inputs["input_ids"]
        return torch.ones_like(ids).bool() if mask is None else self.tensors[mask].bool()

    def model(self) -> Any:
        """The case's model, in evaluation mode, without gradients."""
        overrides = json.dumps(self.entry.get("config_overrides") or {}, sort_keys=True)
        extra = tuple(self.entry.get("extra_weights") or ())
        model = _build(self.folder, self.entry.get("folder") or "", overrides, extra)
        model.zero_grad()
        return model.eval()


def cases(folder: Path, kind: str, *, variant: str = "base") -> Iterator[Case]:
    """The cases of a kind and a variant, at least one."""
    entries, tensors = _read(folder)
    found = [
        Case(folder, entry, tensors)
        for entry in entries
        if entry["kind"] == kind and entry["variant"] == variant
    ]
    assert found, f"no {kind} case of {variant} in {folder}"
    yield from found


def case(folder: Path, name: str) -> Case:
    entries, tensors = _read(folder)
    return next(Case(folder, entry, tensors) for entry in entries if entry["name"] == name)


def worst(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    assert ours.shape == theirs.shape
    return float((ours.detach().float() - theirs.float()).abs().max())


@cache
def _read(folder: Path) -> tuple[list[dict[str, Any]], dict[str, torch.Tensor]]:
    entries = json.loads((folder / "cases.json").read_text())["cases"]
    return entries, load_file(folder / "cases.safetensors")


@cache
def _build(folder: Path, subfolder: str, overrides: str, extra: tuple[str, ...]) -> Any:
    source = folder / subfolder
    config = {**json.loads((source / "config.json").read_text()), **json.loads(overrides)}
    model_class = FAMILIES[folder.name].model_class()
    model = model_class(model_class.config_class.from_dict(config))
    weights = load_file(source / "model.safetensors")
    for name in extra:
        if name == "lm_head_flip":
            weights["lm_head.weight"] = weights["transformer.word_embeddings.weight"].flip(0)
        else:
            weights |= load_file(folder / name)
    report = model.load_state_dict(weights, strict=False)
    assert not report.missing_keys
    assert all("inv_freq" in name for name in report.unexpected_keys)
    return model
