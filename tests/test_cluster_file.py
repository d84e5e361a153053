"""`cluster.yaml`, and what the documents say to change of it, held to Ray's own rules."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from tests.shipped import ROOT

CLUSTER: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text(encoding="utf-8"))


def cloud() -> dict[str, Any]:
    """The file as the page on clusters has it for a cloud."""
    page = (ROOT / "docs/cluster.md").read_text(encoding="utf-8")
    [block] = re.findall(r"```yaml\n(.*?)```", page, re.S)
    return {**CLUSTER, **yaml.safe_load(block)}


@pytest.mark.parametrize("config", [CLUSTER, cloud()], ids=["hosts", "cloud"])
def test_ray_takes_the_file(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    workers = prepared["available_node_types"].values()
    assert sum(kind.get("min_workers", 0) for kind in workers) == 2


def test_hosts_get_all_that_the_installation_needs() -> None:
    mounted = {
        remote.removeprefix("~/raytune-glm/"): local
        for remote, local in CLUSTER["file_mounts"].items()
        if remote.startswith("~/raytune-glm/")
    }
    assert "make -C ~/raytune-glm install" in CLUSTER["setup_commands"]
    assert mounted == {name: name for name in mounted}
    # What pip reads of a checkout: the project's table, the files that it names, the package.
    assert mounted.keys() == {"Makefile", "pyproject.toml", "README.md", "LICENSE", "raytune_glm"}


@pytest.mark.parametrize("file", sorted(ROOT.glob("sweeps/*.yaml")), ids=lambda file: file.name)
def test_a_shipped_sweep_finds_its_files_from_the_heads_home(file: Path) -> None:
    tree = yaml.safe_load(file.read_text(encoding="utf-8"))
    for place in (f"sweeps/{file.name}", tree["model"]["path"], tree["data"]["train"]):
        folder, _, rest = place.partition("/")
        assert (ROOT / CLUSTER["file_mounts"][f"~/{folder}"] / rest).exists()
