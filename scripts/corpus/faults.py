"""The fault-triple task: repair records and the triples they state.

A record is one to three clauses, at times with one that states nothing, joined by commas. A clause
is a template whose slots are filled with entities composed of `words`; a clause says which pairs of
its slots are related. Read next: `../make_fault_triples.py`.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from dataclasses import dataclass

from corpus import words

PART_FAULT, QUANTITY_FAULT, COMPOSITION, TOOL = "部件故障", "性能故障", "组成", "检测工具"

INSTRUCTION = "抽取部件故障、性能故障、组成和检测工具的三元组，用_连接："

MAX_INPUT_CHARACTERS = 48
MAX_OUTPUT_CHARACTERS = 58
MAX_TRIPLES = 4

Triple = tuple[str, str, str]
Entity = Callable[[str], str]
"""Gives an entity of a kind (a key of `ENTITIES`)."""


def _compose(*lists: tuple[str, ...]) -> Callable[[random.Random], str]:
    return lambda rng: "".join(rng.choice(morphemes) for morphemes in lists)


def _part(rng: random.Random) -> str:
    position = rng.choice(words.POSITIONS) if rng.random() < 0.4 else ""
    return position + rng.choice(words.MEDIA) + rng.choice(words.PARTS)


ENTITIES: dict[str, Callable[[random.Random], str]] = {
    "part": _part,
    "assembly": _compose(words.MEDIA, words.MEDIA, words.ASSEMBLIES),
    "fault": _compose(words.FAULT_MANNERS, words.FAULTS),
    "quantity": _compose(words.QUANTITY_SCOPES, words.QUANTITIES),
    "change": _compose(words.QUANTITY_CHANGES, words.QUANTITY_FAULTS),
    "tool": _compose(words.TOOL_KINDS, words.TOOLS),
}
"""How an entity of each kind is composed."""


@dataclass(frozen=True)
class Clause:
    """A way of stating some relations."""

    weight: int
    """How often it is drawn, relative to the other clauses."""
    relations: tuple[Triple, ...]
    """(slot, relation, slot), in the order of the answer's lines."""
    texts: tuple[str, ...]
    """Templates; a slot is a kind of `ENTITIES`, with a digit where a kind occurs twice."""


CLAUSES = (
    Clause(
        8,
        (("part", PART_FAULT, "fault"),),
        (
            "{part}{fault}",
            "{part}出现{fault}",
            "发现{part}{fault}",
            "{part}有{fault}的迹象",
            "原因是{part}{fault}",
            "拆开后见{part}{fault}",
            "{part}已经{fault}，只好更换",
            "司机说{part}{fault}",
            "{fault}出在{part}上",
            "换下{fault}的{part}",
            "怀疑{part}{fault}",
            "因{part}{fault}而停机",
        ),
    ),
    Clause(
        3,
        (("part", PART_FAULT, "fault1"), ("part", PART_FAULT, "fault2")),
        (
            "{part}{fault1}，还{fault2}",
            "{part}既{fault1}又{fault2}",
            "{part}先{fault1}，后来{fault2}",
        ),
    ),
    Clause(
        3,
        (("part1", PART_FAULT, "fault"), ("part2", PART_FAULT, "fault")),
        (
            "{part1}和{part2}都{fault}",
            "{part1}、{part2}同时{fault}",
            "{part1}与{part2}均见{fault}",
        ),
    ),
    Clause(
        6,
        (("quantity", QUANTITY_FAULT, "change"),),
        (
            "{quantity}{change}",
            "实测{quantity}{change}",
            "试车时{quantity}{change}",
            "表上{quantity}{change}",
            "{quantity}仍然{change}",
            "工人反映{quantity}{change}",
            "带负荷后{quantity}{change}",
            "{quantity}出现{change}",
        ),
    ),
    Clause(
        3,
        (("assembly", COMPOSITION, "part"),),
        (
            "{assembly}里装有{part}",
            "{part}属于{assembly}",
            "{assembly}带一个{part}",
            "{part}装在{assembly}内",
        ),
    ),
    Clause(
        2,
        (("assembly", COMPOSITION, "part1"), ("assembly", COMPOSITION, "part2")),
        (
            "{assembly}由{part1}和{part2}构成",
            "{assembly}包括{part1}、{part2}",
            "{assembly}里有{part1}与{part2}",
        ),
    ),
    Clause(
        4,
        (("part", TOOL, "tool"),),
        (
            "用{tool}检查{part}",
            "{part}要用{tool}测量",
            "拿{tool}量了{part}",
            "以{tool}复查{part}",
            "{part}经{tool}确认",
        ),
    ),
    Clause(
        2,
        (("quantity", TOOL, "tool"), ("quantity", QUANTITY_FAULT, "change")),
        (
            "用{tool}测得{quantity}{change}",
            "{tool}显示{quantity}{change}",
        ),
    ),
)

DISTRACTORS = (
    "{machine}进厂检修",
    "{machine}当天停用",
    "{part}完好",
    "{part}未见异常",
    "{quantity}正常",
    "{tool}已归还库房",
    "班组做了登记",
    "随后清洗现场",
    "天气较冷",
    "已行驶{number}公里",
    "累计运转{number}小时",
    "备件三天后到货",
)
"""Clauses that state no triple, although some name an entity."""

_SLOT = re.compile(r"\{([a-z]+)(\d?)\}")


def _fill(template: str, entity: Entity, rng: random.Random) -> tuple[str, dict[str, str]]:
    values: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        kind, digit = match.groups()
        if kind == "machine":
            return rng.choice(words.MACHINES)
        if kind == "number":
            return str(rng.randrange(2, 99) * 100)
        return values.setdefault(kind + digit, entity(kind))

    return _SLOT.sub(value, template), values


def draft(entity: Entity, rng: random.Random) -> tuple[str, list[Triple]]:
    """Make a record's text and the triples that it states, however long."""
    clauses: list[str] = []
    triples: list[Triple] = []
    for _ in range(rng.choices((1, 2, 3), weights=(5, 5, 1))[0]):
        clause = rng.choices(CLAUSES, weights=[clause.weight for clause in CLAUSES])[0]
        text, values = _fill(rng.choice(clause.texts), entity, rng)
        clauses.append(text)
        triples += [
            (values[head], relation, values[tail]) for head, relation, tail in clause.relations
        ]
    if rng.random() < 0.5:
        text, _ = _fill(rng.choice(DISTRACTORS), entity, rng)
        clauses.insert(rng.randrange(len(clauses) + 1), text)
    return "，".join(clauses) + "。", triples


def draft_row(entity: Entity, rng: random.Random) -> dict[str, str] | None:
    """Make one row in the published format; None if the draft is too long or repeats a triple.

    Args:
        entity: Gives an entity of a kind; what it gives decides which entities a split contains.
        rng: The source of all other choices.

    Returns:
        The row (`instruction`, `input`, `output`), short enough for quick training on a CPU.
    """
    text, triples = draft(entity, rng)
    output = "\n".join("_".join(triple) for triple in triples)
    if (
        len(text) > MAX_INPUT_CHARACTERS
        or len(output) > MAX_OUTPUT_CHARACTERS
        or len(triples) > MAX_TRIPLES
        or len(set(triples)) < len(triples)
    ):
        return None
    return {"instruction": INSTRUCTION, "input": text, "output": output}
