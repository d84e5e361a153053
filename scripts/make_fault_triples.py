"""Write `data/fault_triples/{train,dev,test}.jsonl`, the embedded fault-triple data set.

    python scripts/make_fault_triples.py [--out data/fault_triples] [--seed 20]

The same seed gives the same bytes. Guaranteed, and checked before anything is written: no sentence
of dev or test stands in train, no sentence of test in dev, and at least half of the distinct
entities of dev and of test occur nowhere in train's text. The grammar is `corpus/faults.py`.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from corpus import faults

SIZES = {"train": 720, "dev": 100, "test": 100}
FURTHER_TRAIN_ROWS = 1680
"""Rows added to train once dev and test are there, without an entity that is new in those."""
NEW_ENTITY_SHARE = 0.65
"""Probability that a slot of dev or test takes an entity that train does not have."""


@dataclass
class Split:
    """The rows of one split and the entities that their triples name."""

    rows: list[dict[str, str]] = field(default_factory=list)
    entities: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Kind -> entities that the split brought in."""

    def text(self) -> str:
        """Everything that a reader of the split sees."""
        return "\n".join(row["input"] + "\n" + row["output"] for row in self.rows)

    def named(self) -> set[str]:
        """The distinct heads and tails of the answers."""
        triples = (line.split("_") for row in self.rows for line in row["output"].split("\n"))
        return {entity for head, _, tail in triples for entity in (head, tail)}


def make_split(size: int, earlier: Collection[Split], rng: random.Random) -> Split:
    """Make `size` rows whose sentences are in none of the `earlier` splits.

    With `earlier` splits, `NEW_ENTITY_SHARE` of the slots get an entity that none of their texts
    contains, and the rest one that the first of them, train, has.
    """
    split = Split()
    known_text = "\n".join(other.text() for other in earlier)
    taken = {row["input"] for other in earlier for row in other.rows}
    train = next(iter(earlier), None)

    drafted: list[tuple[str, str]] = []

    def entity(kind: str) -> str:
        if train and rng.random() >= NEW_ENTITY_SHARE:
            return rng.choice(train.entities[kind])
        while (made := faults.ENTITIES[kind](rng)) in known_text:
            pass
        drafted.append((kind, made))
        return made

    while len(split.rows) < size:
        drafted.clear()
        row = faults.draft_row(entity, rng)
        if row and row["input"] not in taken:
            taken.add(row["input"])
            split.rows.append(row)
            for kind, made in drafted:
                split.entities[kind].append(made)
    return split


def add_rows(train: Split, size: int, others: Collection[Split], rng: random.Random) -> None:
    """Add `size` rows to train, without sentences or new entities of the `others`."""
    known = train.text()
    new = {entity for other in others for entity in other.named() if entity not in known}
    taken = {row["input"] for split in (train, *others) for row in split.rows}
    end = len(train.rows) + size
    while len(train.rows) < end:
        row = faults.draft_row(lambda kind: faults.ENTITIES[kind](rng), rng)
        if row and row["input"] not in taken and not any(entity in row["input"] for entity in new):
            taken.add(row["input"])
            train.rows.append(row)


def new_share(split: Split, train: Split) -> float:
    """Share of the split's distinct entities that stand nowhere in train's text, even in a word."""
    train_text = train.text()
    named = split.named()
    return sum(entity not in train_text for entity in named) / len(named)


def make_splits(seed: int) -> dict[str, Split]:
    """Make the three splits and check what the module's docstring guarantees."""
    rng = random.Random(seed)
    splits: dict[str, Split] = {}
    for name, size in SIZES.items():
        splits[name] = make_split(size, list(splits.values()), rng)
    train = splits["train"]
    add_rows(train, FURTHER_TRAIN_ROWS, [splits["dev"], splits["test"]], rng)
    inputs = [row["input"] for split in splits.values() for row in split.rows]
    assert len(set(inputs)) == len(inputs), "a sentence stands twice"
    for name in ("dev", "test"):
        assert new_share(splits[name], train) >= 0.5, f"{name} repeats too many entities of train"
    return splits


def main() -> None:
    """Write the files and print what is in them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("data/fault_triples"))
    parser.add_argument("--seed", type=int, default=20)
    arguments = parser.parse_args()

    splits = make_splits(arguments.seed)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, split in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in split.rows]
        (arguments.out / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")
        triples = sum(row["output"].count("\n") + 1 for row in split.rows)
        print(
            f"{name}: {len(split.rows)} rows, {triples} triples, {len(split.named())} entities, "
            f"{new_share(split, splits['train']):.0%} of them not in train"
        )


if __name__ == "__main__":
    main()
