"""Everyday facts and the sentences that state them: the stuff of the pretraining rows.

Built like `faults` (templates with slots), over other relations. Read next: `tasks`.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

from corpus import ordinary, words

CODE_SHARE = 0.3
"""Share of names that are meaningless strings, so that only the sentence tells where a name ends
and only copying gives it back."""

NAMES = {
    "person": ordinary.person,
    "place": ordinary.place,
    "job": ordinary.job,
    "goods": ordinary.goods,
    "food": ordinary.food,
    "dish": ordinary.dish,
    "animal": ordinary.animal,
    "home": ordinary.home,
    "state": ordinary.state,
    "shop": ordinary.shop,
    "book": ordinary.book,
    "amount": ordinary.amount,
    "time": ordinary.time,
}


@dataclass(frozen=True)
class Relation:
    """One relation: what it may be called, between which kinds of names, and how a text says it."""

    labels: tuple[str, ...]
    head: str
    tail: str
    texts: tuple[str, ...]
    """Templates with `{h}` for the head and `{t}` for the tail."""


@dataclass(frozen=True)
class Fact:
    """A stated relation."""

    head: str
    relation: Relation
    tail: str


def _relation(labels: str, head: str, tail: str, texts: str) -> Relation:
    return Relation(tuple(labels.split()), head, tail, tuple(texts.split()))


TOPICS: dict[str, tuple[Relation, ...]] = {
    "人物": (
        _relation(
            "住处 住址 居住地",
            "person",
            "place",
            "{h}住在{t} {h}家在{t} {t}住着{h} {h}搬到了{t} {h}在{t}安家",
        ),
        _relation(
            "职业 工作 身份",
            "person",
            "job",
            "{h}是{t} {h}当了{t} {t}名叫{h} {h}做过{t} {h}想成为{t}",
        ),
        _relation(
            "宠物 所养动物", "person", "animal", "{h}养了{t} {h}家有{t} {t}跟着{h} {h}喂着一只{t}"
        ),
        _relation(
            "近况 心情 状态",
            "person",
            "state",
            "{h}{t} {h}看起来{t} 听说{h}{t} {h}今天{t} 大家觉得{h}{t}",
        ),
        _relation(
            "爱好物品 心爱之物", "person", "goods", "{h}喜欢{t} {h}舍不得{t} {h}收藏{t} {t}是{h}的"
        ),
    ),
    "店铺": (
        _relation(
            "出售 商品 货物",
            "shop",
            "goods",
            "{h}卖{t} {h}新到了{t} {t}在{h}有卖 {h}里摆着{t} {h}专做{t}",
        ),
        _relation(
            "地点 位置 地址", "shop", "place", "{h}开在{t} {h}位于{t} {t}有一家{h} {h}搬去{t}"
        ),
        _relation(
            "店主 老板", "shop", "person", "{h}由{t}经营 {t}开了{h} {h}的老板是{t} {t}管着{h}"
        ),
        _relation(
            "数量 库存", "goods", "amount", "{h}还剩{t} {h}进了{t} {t}{h} 收到{t}{h} {h}共有{t}"
        ),
        _relation(
            "情况 状况 销路",
            "goods",
            "state",
            "{h}{t} {h}最近{t} 客人说{h}{t} {h}变得{t} 店里{h}{t}",
        ),
        _relation("搭配 配套", "goods", "goods", "{h}配上{t} {h}和{t}一起卖 {h}送{t} {h}包着{t}"),
    ),
    "饮食": (
        _relation(
            "原料 用料 食材", "dish", "food", "{h}用{t}做成 {h}里放了{t} {t}可以做{h} {h}少不了{t}"
        ),
        _relation("味道 口味", "dish", "state", "{h}{t} {h}尝起来{t} 都说{h}{t} 这次{h}{t}"),
        _relation(
            "厨师 做法传人", "dish", "person", "{h}由{t}做 {t}会做{h} {t}端来{h} {h}是{t}的拿手菜"
        ),
        _relation("产地 来源", "food", "place", "{h}产自{t} {t}盛产{h} {h}从{t}运来 {t}的{h}有名"),
    ),
    "动物": (
        _relation(
            "食物 吃什么",
            "animal",
            "food",
            "{h}吃{t} {h}爱吃{t} {t}被{h}吃了 {h}只吃{t} {h}找到了{t}",
        ),
        _relation("住所 栖息地", "animal", "home", "{h}住在{t} {h}躲进{t} {t}里有{h} {h}在{t}过冬"),
        _relation(
            "天敌 害怕对象", "animal", "animal", "{h}怕{t} {t}追赶{h} {h}躲着{t} {t}抓住了{h}"
        ),
        _relation("样子 表现", "animal", "state", "{h}{t} {h}变得{t} 这只{h}{t} {h}近来{t}"),
    ),
    "天气": (
        _relation("天气 气象", "place", "state", "{h}{t} {h}将会{t} 预报说{h}{t} {h}今年{t}"),
        _relation(
            "时间 时节", "place", "time", "{h}的庙会在{t} {t}去{h}最好 {h}{t}最热闹 {h}定在{t}赶集"
        ),
        _relation("特产 名产", "place", "goods", "{h}出{t} {t}来自{h} {h}的{t}有名 {h}家家做{t}"),
    ),
    "书籍": (
        _relation(
            "作者 写作者", "book", "person", "{h}由{t}写成 {t}写了{h} {h}的作者是{t} {t}编过{h}"
        ),
        _relation("读者 借阅人", "book", "person", "{h}借给了{t} {t}在读{h} {t}买了{h} {h}送给{t}"),
        _relation("收藏地 存放处", "book", "shop", "{h}存在{t} {t}收着{h} {h}摆在{t} {t}找到了{h}"),
        _relation("评价 看法", "book", "state", "{h}{t} 人们说{h}{t} {h}读来{t} {h}写得{t}"),
    ),
}

ASIDES = words.table(
    "大家都知道 那天没有风 后来就回家了 没有人说话 一切照旧 时间过得很快 这事记在账上 门口停着车 "
    "孩子们在唱歌 钟敲了三下 路上很滑 桥还没修好 信已经寄出 水井在院里 明天再谈 天快黑了 先喝一杯茶"
)
"""Clauses that state nothing."""

_SLOT = re.compile(r"\{([ht])\}")


def name(kind: str, rng: random.Random) -> str:
    """A name of `kind`, or a meaningless string in its place."""
    return ordinary.code(rng) if rng.random() < CODE_SHARE else NAMES[kind](rng)


def tell(fact: Fact, rng: random.Random) -> str:
    """A clause that states `fact`."""
    template = rng.choice(fact.relation.texts)
    return _SLOT.sub(lambda match: fact.head if match[1] == "h" else fact.tail, template)


def draw(relations: tuple[Relation, ...], count: int, rng: random.Random) -> list[Fact]:
    """Make up `count` facts; a head is used again now and then, in its own relations."""
    facts: list[Fact] = []
    for _ in range(count):
        relation = rng.choice(relations)
        heads = [fact.head for fact in facts if fact.relation.head == relation.head]
        head = rng.choice(heads) if heads and rng.random() < 0.35 else name(relation.head, rng)
        facts.append(Fact(head, relation, name(relation.tail, rng)))
    return facts


def tell_all(facts: list[Fact], rng: random.Random) -> str:
    """A text that states `facts` in their order, at times with a clause that states nothing."""
    clauses = [tell(fact, rng) for fact in facts]
    if rng.random() < 0.35:
        clauses.insert(rng.randrange(len(clauses) + 1), rng.choice(ASIDES))
    return rng.choice("，，，；。").join(clauses) + "。"
