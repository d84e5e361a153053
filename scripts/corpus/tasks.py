"""The pretraining conversations: extraction tasks that are not the fault-triple task.

A subject is a made-up text that can be asked about in several ways. Every answer can be had from
the text by copying parts of it, under a label or in a layout that the question asks for. Several
questions about one text are asked in a row, so that less of a batch is text without loss.
Read next: `documents`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from corpus import facts, ordinary, workshop

SEPARATORS = ("|", "-", "=", "→", "/", "：", "#", "~", "+", ">", "*", "，", "；", "、")
"""What joins the parts of a line. The underscore is the fault-triple task's own and is left out."""

_SOURCES = ("文本：", "文字：", "句子：", "原文：", "材料：", "内容：", "短文：", "")


@dataclass(frozen=True)
class Exchange:
    """A question, in the parts that are tokenized one by one, and its answer."""

    question: tuple[str, ...]
    answer: str


class Subject(ABC):
    """A text and what may be asked about it."""

    text: str

    @abstractmethod
    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Give an instruction and the answer that it wants."""


class Tale(Subject):
    """Sentences that tell facts of a topic."""

    def __init__(self, rng: random.Random) -> None:
        self.topic, self.relations = rng.choice(list(facts.TOPICS.items()))
        self.facts = facts.draw(self.relations, rng.choice((1, 2, 2, 3, 3, 4)), rng)
        self.text = facts.tell_all(self.facts, rng)

    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Ask for lines of facts mostly, at times for one relation or one fact."""
        ask = rng.choices((self._lines, self._pairs, self._question), weights=(7, 2, 2))[0]
        return ask(rng)

    def _lines(self, rng: random.Random) -> tuple[str, str]:
        """Facts as lines of head, label and tail, for all of the topic's relations or some."""
        asked = list(self.relations)
        if rng.random() < 0.4:
            told = rng.choice(self.facts).relation
            asked = [relation for relation in asked if relation is told or rng.random() < 0.5]
        rng.shuffle(asked)
        labels = {relation.labels: rng.choice(relation.labels) for relation in asked}
        separator = rng.choice(SEPARATORS)
        order = rng.choice(("hrt", "hrt", "hrt", "hrt", "rht"))
        lines = []
        for fact in self.facts:
            if fact.relation in asked:
                parts = {"h": fact.head, "r": labels[fact.relation.labels], "t": fact.tail}
                lines.append(separator.join(parts[letter] for letter in order))
        names = {"h": "名称", "r": "关系", "t": "内容"}
        layout = separator.join(names[letter] for letter in order)
        listed = "、".join(labels.values())
        instruction = rng.choice(
            (
                f"从{self.topic}材料中找出{listed}，写成{layout}，每行一个。",
                f"找出文中的关系，有{listed}，写成{layout}，每行一条。",
                f"请写出{listed}，每行一条，格式为{layout}。",
                f"抽取{self.topic}信息，关系为{listed}，格式{layout}，每行一个。",
                f"关系：{listed}。格式：{layout}。",
            )
        )
        return instruction, "\n".join(lines)

    def _pairs(self, rng: random.Random) -> tuple[str, str]:
        """The two ends of one relation, or one of its ends, wherever the text tells it."""
        asked = rng.choice(self.facts).relation
        label, separator = rng.choice(asked.labels), rng.choice(SEPARATORS)
        told = [fact for fact in self.facts if fact.relation is asked]
        if rng.random() < 0.5:
            lines = "\n".join(f"{fact.head}{separator}{fact.tail}" for fact in told)
            return f"只找{label}，两头用{separator}连接，每行一对。", lines
        return f"只写{label}，用{separator}隔开。", separator.join(fact.tail for fact in told)

    def _question(self, rng: random.Random) -> tuple[str, str]:
        """A question about one fact."""
        fact = rng.choice(self.facts)
        label = rng.choice(fact.relation.labels)
        answers = "、".join(
            other.tail
            for other in self.facts
            if other.head == fact.head and other.relation is fact.relation
        )
        question = rng.choice(("{}的{}是什么？", "问：{}的{}？", "请说出{}的{}。")).format(
            fact.head, label
        )
        if rng.random() < 0.3:
            return question + "请用整句回答。", f"{fact.head}的{label}是{answers}。"
        return question, answers


class Record(Subject):
    """A repair record."""

    def __init__(self, rng: random.Random) -> None:
        self.text, self.triples = workshop.record(rng)

    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Ask for the pairs of one relation, for one of its ends, or for several relations."""
        ask = rng.choices((self._pairs, self._ends, self._lines), weights=(3, 2, 4))[0]
        return ask(rng)

    def _pairs(self, rng: random.Random) -> tuple[str, str]:
        relation = rng.choice(self.triples)[1]
        label, separator = rng.choice(workshop.LABELS[relation]), rng.choice(SEPARATORS)
        lines = (f"{h}{separator}{t}" for h, r, t in self.triples if r == relation)
        return f"只找{label}，两头用{separator}连接，每行一对。", "\n".join(lines)

    def _ends(self, rng: random.Random) -> tuple[str, str]:
        head, relation, _ = rng.choice(self.triples)
        label = rng.choice(workshop.LABELS[relation])
        tails = (t for h, r, t in self.triples if (h, r) == (head, relation))
        return f"{head}的{label}是什么？", "、".join(tails)

    def _lines(self, rng: random.Random) -> tuple[str, str]:
        labels = {relation: rng.choice(names) for relation, names in workshop.LABELS.items()}
        separator = rng.choice(SEPARATORS)
        listed = list(labels.values())
        rng.shuffle(listed)
        lines = (separator.join((h, labels[r], t)) for h, r, t in self.triples)
        instruction = f"从记录中找出{'、'.join(listed)}，用{separator}连接，每行一条。"
        return instruction, "\n".join(lines)


class Card(Subject):
    """A card of keys and values."""

    def __init__(self, rng: random.Random) -> None:
        _, relations = rng.choice(list(facts.TOPICS.items()))
        self.entries = [
            (rng.choice(relation.labels), facts.name(relation.tail, rng)) for relation in relations
        ]
        rng.shuffle(self.entries)
        between, after = (
            rng.choice(("：", "=", "-", "是")),
            rng.choice(("；", "，", "\n", "/", "|")),
        )
        self.text = after.join(key + between + value for key, value in self.entries)

    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Ask for one value, some values, or the card in another layout."""
        separator = rng.choice(SEPARATORS)
        chosen = rng.sample(self.entries, rng.randint(1, min(3, len(self.entries))))
        keys, values = zip(*chosen, strict=True)
        lines = "\n".join(key + separator + value for key, value in self.entries)
        return rng.choice(
            (
                (f"写出{keys[0]}。", values[0]),
                (f"依次写出{'、'.join(keys)}，用{separator}隔开。", separator.join(values)),
                (f"每行写一项，用{separator}连接。", lines),
            )
        )


class WordList(Subject):
    """Words in a row."""

    def __init__(self, rng: random.Random) -> None:
        kinds = list(facts.NAMES)
        self.words = [facts.name(rng.choice(kinds), rng) for _ in range(rng.randint(2, 6))]
        self.text = rng.choice("、，；/ ").join(self.words)

    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Ask for one of them, for the rest, for another order or another layout."""
        separator, place = rng.choice(SEPARATORS), rng.randrange(len(self.words))
        number = "一二三四五六"[place]
        rest = self.words[:place] + self.words[place + 1 :]
        return rng.choice(
            (
                (f"写出第{number}个词。", self.words[place]),
                (f"倒着写各词，用{separator}隔开。", separator.join(reversed(self.words))),
                (f"去掉第{number}个词，其余用{separator}隔开。", separator.join(rest)),
                ("每行写一个词。", "\n".join(self.words)),
                (f"改用{separator}隔开。", separator.join(self.words)),
            )
        )


class Cipher(Subject):
    """Meaningless characters, of which parts are to be copied."""

    def __init__(self, rng: random.Random) -> None:
        self.left, self.middle, self.right = (
            "".join(ordinary.code(rng) for _ in range(rng.randint(1, 2))) for _ in range(3)
        )
        self.text = f"{self.left}“{self.middle}”{self.right}"

    def ask(self, rng: random.Random) -> tuple[str, str]:
        """Ask for all of it, for the quoted part, or for what stands beside it."""
        return rng.choice(
            (
                ("照抄：", self.text),
                ("写出引号里的字。", self.middle),
                (f"写出“{self.middle}”后面的字。", self.right),
                (f"写出“{self.middle}”前面的字。", self.left),
                (f"写出{self.left}和{self.right}之间的字。", f"“{self.middle}”"),
            )
        )


SUBJECTS: tuple[tuple[Callable[[random.Random], Subject], int], ...] = (
    (Record, 50),
    (Tale, 30),
    (Card, 6),
    (WordList, 7),
    (Cipher, 7),
)
"""Every kind of subject and its weight."""


def make_conversation(rng: random.Random) -> list[Exchange]:
    """Make one to four exchanges about one text, which stands in the first question."""
    kinds, weights = zip(*SUBJECTS, strict=True)
    subject: Subject = rng.choices(kinds, weights=weights)[0](rng)
    exchanges = []
    for number in range(rng.choice((1, 2, 3, 4))):
        instruction, answer = subject.ask(rng)
        if number > 0:
            question: tuple[str, ...] = (instruction,)
        elif rng.random() < 0.9:
            question = (instruction + rng.choice(_SOURCES), subject.text)
        else:
            question = (subject.text, instruction)
        exchanges.append(Exchange(question, answer))
    return exchanges
