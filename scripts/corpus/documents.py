"""Plain text for pretraining: paragraphs that tell facts and come back to them."""

from __future__ import annotations

import random

from corpus import facts, ordinary


def story(rng: random.Random) -> str:
    """Facts of a topic, then some of them again in other words."""
    _, relations = rng.choice(list(facts.TOPICS.items()))
    told = facts.draw(relations, rng.randint(2, 4), rng)
    first = facts.tell_all(told, rng)
    again = rng.sample(told, rng.randint(1, len(told)))
    rng.shuffle(again)
    second = "".join(
        f"{fact.head}的{rng.choice(fact.relation.labels)}是{fact.tail}。" for fact in again
    )
    return first + second


def refrain(rng: random.Random) -> str:
    """A meaningless line that is said twice or three times."""
    line = "".join(ordinary.code(rng) for _ in range(rng.randint(2, 6)))
    return rng.choice("，；。\n").join([line] * rng.randint(2, 3)) + "。"


def glossary(rng: random.Random) -> str:
    """Ordinary and workshop words in a row, with their number."""
    kinds = list(facts.NAMES)
    items = [facts.NAMES[rng.choice(kinds)](rng) for _ in range(rng.randint(4, 9))]
    joined = "、".join(items)
    return f"词表：{joined}。共{len(items)}个词，第一个是{items[0]}，最后一个是{items[-1]}。"


def make_document(rng: random.Random) -> str:
    """Make one paragraph."""
    kind = rng.choices((story, refrain, glossary), weights=(5, 3, 2))[0]
    return kind(rng)
