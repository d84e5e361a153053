"""Reading the fixtures that the original ChatGLM code computed (`../shared/oracle/README.md`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from raytune_glm.models import load_model

LOGITS = 1e-4
HIDDEN = 3e-5
LOSS = 1e-5
GRADIENT = 2e-5
"""Greatest absolute differences that the fixtures' README demands in fp32."""


@dataclass(frozen=True)
class Oracle:
    """One family's fixtures."""

    folder: Path
    cases: dict[str, dict[str, Any]]
    tensors: dict[str, torch.Tensor]

    def tensor(self, name: str | None) -> torch.Tensor | None:
        return None if name is None else self.tensors[name]

    def inputs(self, name: str) -> dict[str, torch.Tensor]:
        named = {key: self.tensor(value) for key, value in self.cases[name]["inputs"].items()}
        return {key: value for key, value in named.items() if value is not None}

    def expected(self, name: str, what: str) -> torch.Tensor:
        return self.tensors[self.cases[name]["expect"][what]]

    def valid(self, name: str) -> torch.Tensor:
        """Which rows and columns may be compared; the others are pads."""
        mask = self.tensor(self.cases[name].get("compare_mask"))
        return (
            torch.ones_like(self.inputs(name)["input_ids"]).bool() if mask is None else mask.bool()
        )


@cache
def oracle(folder: Path) -> Oracle:
    cases = json.loads((folder / "cases.json").read_text())["cases"]
    return Oracle(
        folder, {case["name"]: case for case in cases}, load_file(folder / "cases.safetensors")
    )


@cache
def oracle_model(folder: Path) -> Any:
    """The fixtures' model. Cached, so whoever changes it must put it back."""
    return load_model(folder)


def names(kind: str, *, variant: str = "base") -> list[str]:
    """Names of the cases of a kind, the same for both families but `gen_chat`, which tests skip."""
    return {
        ("forward", "base"): [
            "single",
            "single_ones_mask",
            "single_labels",
            "batch_left_pad",
            "batch_left_pad_labels",
            "batch_train_collator",
            "long_train_batch",
            "left_pad_no_positions",
            "right_pad_mask",
        ],
        ("generate", "base"): [
            "gen_single",
            "gen_single_tokenizer",
            "gen_batch_left_pad",
            "gen_batch_eos",
            "gen_mask_only_batch",
        ],
    }[kind, variant]
