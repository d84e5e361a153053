"""Where rows are: files, folders, and data sets on the Hugging Face hub. Read next: `records`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytune_glm.data.records import SUFFIXES, Fault, Record
from raytune_glm.data.settings import SPLITS, DataConfig, Split
from raytune_glm.errors import DataError

_HUB_PREFIX = "hub:"
_HUB_PLACE = re.compile(
    r"hub:(?P<name>[\w.-]+/[\w.-]+)(?:/(?P<subset>[\w.-]+))?(?::(?P<split>[\w.-]+))?"
)
_HUB_SPLITS: dict[Split, str] = {
    "train": "train",
    "dev": "validation",
    "test": "test",
    "retain": "validation",
}


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """A data set on the hub: what `hub:owner/name/subset:split` says."""

    name: str
    subset: str | None
    split: str


def split_places(config: DataConfig) -> dict[Split, tuple[str, ...]]:
    """Give the places of each split that the configuration names."""
    return {split: named for split in SPLITS if (named := getattr(config, split)) is not None}


def is_hub(place: str) -> bool:
    """Say whether a place is on the hub.

    The prefix makes it certain: a mistyped path must be told at once, and not be looked up on the
    hub first, which looks the same (`owner/name`).
    """
    return place.startswith(_HUB_PREFIX)


def local_files(place: str, faults: list[Fault]) -> list[Path]:
    """List the data files that a place on this machine stands for.

    Args:
        place: A file or a folder.
        faults: What is wrong with the place is added here.

    Returns:
        The files in the order they are read; none if there is a fault.
    """
    path = Path(place).expanduser()
    if path.is_dir():
        files = sorted(
            file
            for file in path.iterdir()
            if file.name.endswith(SUFFIXES) and not file.name.startswith(".")
        )
        problem = f"the folder must hold a file whose name ends in {' or '.join(SUFFIXES)}"
    elif path.exists():
        files = [path] if path.name.endswith(SUFFIXES) else []
        problem = f"the file's name must end in {' or '.join(SUFFIXES)}"
    else:
        files = []
        problem = "there is no such file or folder"
        if not path.is_absolute():
            problem += f" in {Path.cwd()}"
        if _HUB_PLACE.fullmatch(_HUB_PREFIX + place) and not place.endswith(SUFFIXES):
            problem += f"; a data set on the Hugging Face hub is written {_HUB_PREFIX}{place}"
    if not files:
        faults.append(Fault(file=place, problem=problem))
    return files


def parse_hub(place: str, split: Split, faults: list[Fault]) -> HubDataset | None:
    """Take `hub:owner/name/subset:split` apart.

    Args:
        place: A place for which `is_hub` holds.
        split: Which of our splits it is for: `train`, `validation` and `test` are taken of the data
            set where the place names none.
        faults: What is wrong with the place is added here.

    Returns:
        The data set, or None if there is a fault.
    """
    match = _HUB_PLACE.fullmatch(place)
    if match is None:
        problem = "must be hub:owner/name, hub:owner/name/subset, or either with :split behind it"
        faults.append(Fault(file=place, problem=problem))
        return None
    return HubDataset(
        name=match["name"], subset=match["subset"], split=match["split"] or _HUB_SPLITS[split]
    )


def hub_records(hub: HubDataset) -> Iterator[Record]:
    """Fetch a data set from the hub, or from its local cache, as records numbered from 1.

    Args:
        hub: Which one.

    Yields:
        Its rows, without the fields that are null.

    Raises:
        DataError: It cannot be loaded.
    """
    import datasets

    try:
        dataset = datasets.load_dataset(hub.name, hub.subset, split=hub.split)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"hub:{hub.name}: split {hub.split!r} must be on the hub or in the local cache of "
            f"`datasets`, but loading it fails: {error}"
        ) from error
    for number, row in enumerate(dataset, start=1):
        # A table has every column in every row; where a row lacks a field there is null.
        value: dict[str, Any] = {name: item for name, item in row.items() if item is not None}
        yield Record(line=number, value=value)
