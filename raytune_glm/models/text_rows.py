"""Rows and prompts of models whose conversation is one text: a chat template's, or Alpaca's.

An Alpaca template that the user names decides; else the tokenizer's own chat template where it has
one; else Alpaca's default. Read next: `alpaca`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from raytune_glm.errors import DataError
from raytune_glm.models.alpaca import TEMPLATES
from raytune_glm.models.family import IGNORED_LABEL, Encoded, Message
from raytune_glm.models.turns import check_conversation, text_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TextRows:
    """Encodes the rows and prompts of one tokenizer's text format.

    Args:
        tokenizer: The model's; its chat template decides where it has one and none is named.
        template: Name of an Alpaca template, which then decides; see `alpaca.TEMPLATES`.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str | None = None

    def encode_row(
        self,
        messages: Sequence[Message],
        *,
        max_length: int,
        max_source_length: int,
    ) -> Encoded:
        """Encode a training row; loss on what the assistant says and on what ends its turn.

        A source that is too long loses its oldest exchanges, then the end of the last question, so
        that the template stays whole.
        """
        check_conversation(messages, last=("assistant",))
        source, kept = self._fitting_source(messages[:-1], max_source_length)
        answer = self._answer_ids([*kept, messages[-1]], source)
        budget = max(1, max_length - len(source))
        ends = self._turn_ends(kept)
        tail = answer if len(answer) <= budget else [*answer[: budget - 1], ends[0]]
        return Encoded(
            input_ids=source + tail,
            labels=self._source_labels(kept, source) + tail,
            truncated=len(answer) > budget or list(kept) != list(messages[:-1]),
        )

    def encode_prompt(self, messages: Sequence[Message], *, max_source_length: int) -> list[int]:
        """Encode what `encode_row` puts before the last answer."""
        check_conversation(messages, last=("user", "tool"))
        return self._fitting_source(messages, max_source_length)[0]

    def stop_token_ids(self) -> list[int]:
        """Give the end of text, and the token with which the chat template ends a turn."""
        question = Message(role="user", parts=("?",))
        ends = [*self._turn_ends([question]), self.tokenizer.eos_token_id]
        return list(dict.fromkeys(end for end in ends if end is not None))

    def _fitting_source(
        self, messages: Sequence[Message], limit: int
    ) -> tuple[list[int], list[Message]]:
        """Encode the turns before an answer in `limit` tokens; give the turns that were kept."""
        kept = list(messages)
        ids = text_ids(self.tokenizer, self._prompt_text(kept))
        while len(ids) > limit:
            system = 1 if kept[0].role == "system" else 0
            starts = [place for place, turn in enumerate(kept) if turn.role == "user"][1:]
            if starts:
                kept = kept[:system] + kept[starts[0] :]
            else:
                shorter = self._shortened(kept[-1], len(ids) - limit)
                if shorter == kept[-1]:
                    raise DataError(
                        f"`max_source_length` must leave room for the prompt template, but got "
                        f"max_source_length={limit} where the template alone has {len(ids)} tokens."
                    )
                kept = [*kept[:-1], shorter]
            ids = text_ids(self.tokenizer, self._prompt_text(kept))
        return ids, kept

    def _shortened(self, turn: Message, excess: int) -> Message:
        """Take `excess` tokens from the end of a turn's text, its last part first."""
        parts = list(turn.parts)
        for place in reversed(range(len(parts))):
            ids = text_ids(self.tokenizer, parts[place])
            if not ids:
                continue
            taken = min(excess, len(ids))
            shorter = str(self.tokenizer.decode(ids[: len(ids) - taken], skip_special_tokens=False))
            # A tokenizer that does not give back its own text must still make progress.
            parts[place] = shorter if len(shorter) < len(parts[place]) else parts[place][:-1]
            excess -= taken
            if excess <= 0:
                break
        return replace(turn, parts=tuple(parts))

    def _prompt_text(self, messages: Sequence[Message]) -> str:
        if self._has_chat_template:
            return self._chat_text(messages, add_generation_prompt=True)
        return self._alpaca_text(messages)

    @property
    def _has_chat_template(self) -> bool:
        return self.template is None and bool(self.tokenizer.chat_template)

    def _chat_text(self, messages: Sequence[Message], *, add_generation_prompt: bool) -> str:
        turns = [
            # An instruction and its input are two lines of one question.
            {"role": turn.role, "content": "\n".join(part for part in turn.parts if part)}
            for turn in messages
        ]
        return str(
            self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=add_generation_prompt
            )
        )

    def _alpaca_text(self, messages: Sequence[Message]) -> str:
        """Write Alpaca's template once an exchange; a system turn opens the first instruction."""
        template = TEMPLATES[self.template or next(iter(TEMPLATES))]
        text = self.tokenizer.bos_token or ""
        opening = ""
        for turn in messages:
            if turn.role == "system":
                opening = f"{turn.content}\n"
            elif turn.role == "assistant":
                text += f"{turn.content}{self.tokenizer.eos_token or ''}\n\n"
            else:
                instruction, context = opening + turn.parts[0], "".join(turn.parts[1:])
                opening = ""
                text += template.prompt(instruction, context)
        return text

    def _with_answer_text(self, messages: Sequence[Message]) -> str:
        if self._has_chat_template:
            return self._chat_text(messages, add_generation_prompt=False)
        source = self._alpaca_text(messages[:-1])
        return f"{source}{messages[-1].content}{self.tokenizer.eos_token or ''}"

    def _answer_ids(self, messages: Sequence[Message], source: list[int]) -> list[int]:
        """Give the ids of the last turn as they follow `source`, its end included.

        Answer and source are tokenized together, so that no blank appears between them that the
        model would not generate; apart only where a token would straddle the border.
        """
        together = text_ids(self.tokenizer, self._with_answer_text(messages))
        if together[: len(source)] == source:
            answer = together[len(source) :]
        else:
            answer = text_ids(self.tokenizer, messages[-1].content)
        for end in self._turn_ends(messages[:-1]):
            if end in answer:
                return answer[: answer.index(end) + 1]
        return [*answer, self._turn_ends(messages[:-1])[0]]

    def _source_labels(self, messages: Sequence[Message], source: list[int]) -> list[int]:
        """Label the earlier answers in a source: each is what follows the prompt before it."""
        labels = [IGNORED_LABEL] * len(source)
        for place, turn in enumerate(messages):
            if turn.role != "assistant" or place == 0:
                continue
            before = text_ids(self.tokenizer, self._prompt_text(messages[:place]))
            # A template that rewrites earlier turns has no such prefix; then they carry no loss.
            if source[: len(before)] == before:
                answer = self._answer_ids(messages[: place + 1], before)
                end = len(before) + len(answer)
                if source[len(before) : end] == answer:
                    labels[len(before) : end] = answer
        return labels

    def _turn_ends(self, messages: Sequence[Message]) -> list[int]:
        """Give the token that ends the assistant's turn: the template's, then the end of text."""
        ends: list[int] = []
        if self._has_chat_template:
            mark = "x"
            question = [turn for turn in messages if turn.role == "user"][-1:]
            text = self._with_answer_text([*question, Message(role="assistant", parts=(mark,))])
            behind = text_ids(self.tokenizer, text[text.rindex(mark) + len(mark) :].strip())
            ends.extend(token for token in behind[:1] if token in self.tokenizer.all_special_ids)
        if self.tokenizer.eos_token_id is not None:
            ends.append(self.tokenizer.eos_token_id)
        if not ends:
            raise DataError(
                "a tokenizer must have an end-of-text token (`eos_token` in "
                "tokenizer_config.json), but this one has none: the model could not learn where "
                "to stop."
            )
        return ends
