"""Encoded splits on disk: made once for all trials with equal settings, memory-mapped by each.

The splits are Arrow files in a folder whose name is a hash of all that they depend on. Read next:
`order`.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from raytune_glm.data.cache import build_once, digest, digest_file
from raytune_glm.data.encoding import SplitEncoder, SplitStats
from raytune_glm.data.places import hub_records, is_hub, local_files, parse_hub, split_places
from raytune_glm.data.reading import read_splits
from raytune_glm.data.records import Fault, refuse
from raytune_glm.data.settings import SPLITS, DataConfig, Split
from raytune_glm.files import write_json
from raytune_glm.models.family import Family

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

ENCODING_VERSION = 1
"""Raise it with every change of what encoding gives for the same input, a family's `encode`
included: folders that an older version of this project wrote are then not used again."""


@dataclass(frozen=True, kw_only=True)
class EncodedData:
    """The splits of a sweep, memory-mapped from disk.

    Columns of every split: `input_ids` and `labels` (lists of int32 of the row's own length),
    `length` (tokens), `num_labels` (tokens that carry loss once labels are shifted by one) and
    `source` (file and line). `dev` and `test` also have `prompt_ids` (what to generate from) and
    `references` (the answers that count as right), as has `retain`, and their rows are in the order
    of the files.
    """

    folder: Path
    """Where the splits are; `load_encoded` opens it again."""
    train: Dataset
    dev: Dataset | None
    test: Dataset | None
    retain: Dataset | None
    stats: dict[Split, SplitStats]


def encode_splits(
    config: DataConfig, *, family: Family, tokenizer: PreTrainedTokenizerBase, cache_dir: Path
) -> EncodedData:
    """Encode the rows that the configuration names, or open them where that is done already.

    Safe to call from many processes at once: one encodes, the others wait and open its files.

    Args:
        config: The `data` section.
        family: Says how a row becomes tokens.
        tokenizer: The family's tokenizer.
        cache_dir: Folder that holds one folder per distinct set of files, settings and tokenizer.

    Returns:
        The encoded splits.

    Raises:
        DataError: A row cannot be used, or no row of a split can be trained or evaluated on.
    """
    folder = cache_dir / _key(config, family, tokenizer)

    def build(target: Path) -> None:
        rows = read_splits(config)
        stats = {}
        for split, found in rows.items():
            encoder = SplitEncoder(config=config, split=split, family=family, tokenizer=tokenizer)
            stats[split] = asdict(encoder.write(found, target / f"{split}.arrow"))
        write_json(target / "stats.json", stats)

    made = build_once(folder, build)
    encoded = load_encoded(folder)
    if made:
        log.info("encoded the data into %s", folder)
        _log_stats(encoded.stats)
    return encoded


def measure_splits(
    config: DataConfig, *, family: Family, tokenizer: PreTrainedTokenizerBase, most_rows: int
) -> dict[Split, SplitStats]:
    """Find out what encoding would do to the rows of the local files, without writing anything.

    Args:
        config: The `data` section.
        family: Says how a row becomes tokens.
        tokenizer: The family's tokenizer.
        most_rows: Of a split with more rows, so many are encoded, evenly spread over it.

    Returns:
        The counts over the rows encoded; none where rows are on the hub.

    Raises:
        DataError: A row cannot be used.
    """
    if any(is_hub(place) for places in split_places(config).values() for place in places):
        return {}
    stats = {}
    for split, found in read_splits(config).items():
        encoder = SplitEncoder(config=config, split=split, family=family, tokenizer=tokenizer)
        stats[split] = encoder.measure(found[:: math.ceil(len(found) / most_rows)])
    return stats


def load_encoded(folder: Path) -> EncodedData:
    """Open encoded splits without reading them into memory.

    Args:
        folder: `EncodedData.folder` of an earlier `encode_splits`.

    Returns:
        The encoded splits.
    """
    from datasets import Dataset

    found = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
    stats = {split: SplitStats(**found[split]) for split in SPLITS if split in found}
    opened = {split: Dataset.from_file(str(folder / f"{split}.arrow")) for split in stats}
    return EncodedData(
        folder=folder,
        train=opened["train"],
        dev=opened.get("dev"),
        test=opened.get("test"),
        retain=opened.get("retain"),
        stats=stats,
    )


def _key(config: DataConfig, family: Family, tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash all that the encoded splits depend on. Files count by content, not by name."""
    settings = config.model_dump(exclude={*map(str, SPLITS)})
    faults: list[Fault] = []
    content: dict[str, list[str]] = {}
    for split, places in split_places(config).items():
        content[split] = []
        for place in places:
            if not is_hub(place):
                content[split] += [digest_file(file) for file in local_files(place, faults)]
            elif hub := parse_hub(place, split, faults):
                content[split].append(digest([record.value for record in hub_records(hub)]))
    refuse(faults)
    return digest(
        {
            "version": ENCODING_VERSION,
            "family": [family.name, family.template],
            "tokenizer": _digest_tokenizer(tokenizer),
            "settings": settings,
            "content": content,
        }
    )[:32]


_BESIDE_THE_IDS = {
    *("padding", "padding_side", "truncation", "truncation_side", "model_max_length"),
    *("is_local", "local_files_only", "name_or_path"),
}
"""What a tokenizer's files say of its last call, of lengths, and of where it came from. The ids of
a text depend on none of it: families pad and cut by themselves."""


def _digest_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """Hash a tokenizer by the files it saves, which are the same wherever it was loaded from."""
    digests: dict[str, str] = {"class": type(tokenizer).__name__}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for file in Path(folder).rglob("*"):
            if file.suffix == ".json":
                value = json.loads(file.read_text(encoding="utf-8"))
                kept = {name: item for name, item in value.items() if name not in _BESIDE_THE_IDS}
                digests[file.name] = digest(kept)
            elif file.is_file():
                digests[file.name] = digest_file(file)
    return digest(digests)


def _log_stats(stats: dict[Split, SplitStats]) -> None:
    for split, counts in stats.items():
        left_out = counts.rows_read - counts.rows_kept
        log.log(
            logging.WARNING if left_out else logging.INFO,
            "%s: %d of %d rows, %d tokens of which %d carry loss, longest row %d; "
            "%d rows cut, %d left out as too long, %d without a token that carries loss",
            split,
            counts.rows_kept,
            counts.rows_read,
            counts.tokens,
            counts.labels,
            counts.longest,
            counts.rows_truncated,
            counts.rows_skipped,
            counts.rows_without_labels,
        )
