"""Evaluating several trials of a pack at once, with what `raytune_glm.evaluate` gives for each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from raytune_glm.data.collation import pad_token_id
from raytune_glm.evaluate import Evaluation, Evaluator
from raytune_glm.metrics import weighted_mean
from raytune_glm.packing.generation import generate_together
from raytune_glm.packing.pack import TOKENS_A_PASS

if TYPE_CHECKING:
    from raytune_glm.packing.pack import DataRow, Pack
    from raytune_glm.retention import Retention


def evaluate_together(
    pack: Pack, evaluators: Mapping[int, Evaluator], *, retention: Retention | None = None
) -> dict[int, Evaluation]:
    """Score some slots of a pack on their held-out rows.

    Args:
        pack: The pack; its trials go on afterwards as if nothing had been.
        evaluators: Slot -> the rows and how to score them.
        retention: Tells what slots have forgotten; none: nothing asks for it.

    Returns:
        Slot -> values and answers.
    """
    losses = _losses(pack, evaluators)
    together = {n: e for n, e in evaluators.items() if not pack.slots[n].is_alone}
    answered = _answers(pack, {n: e for n, e in together.items() if e.needs_answers})
    found = {}
    for number, evaluator in evaluators.items():
        slot = pack.slots[number]
        values = {"eval_loss": losses[number]}
        if number in answered:
            found[number] = evaluator.judge(answered[number], values=values)
        else:
            found[number] = evaluator.score_answers(slot.model, slot.device, values=values)
    if retention is None:
        return found
    again = _losses(pack, dict.fromkeys(found, retention.evaluator))
    return {number: retention.told(told, again[number]) for number, told in found.items()}


def _answers(pack: Pack, evaluators: Mapping[int, Evaluator]) -> dict[int, list[str]]:
    """The greedy answers of slots, in the order of their rows."""
    texts: dict[int, dict[int, str]] = {number: {} for number in evaluators}
    waiting = {number: evaluator.by_prompt_length() for number, evaluator in evaluators.items()}
    while any(waiting.values()):
        chosen = {n: rows[: evaluators[n].batch_size] for n, rows in waiting.items() if rows}
        first = evaluators[next(iter(chosen))]
        answers = generate_together(
            pack,
            {
                n: [evaluators[n].rows[row]["prompt_ids"] for row in own]
                for n, own in chosen.items()
            },
            stops=first.family.stop_token_ids(first.tokenizer),
            max_new_tokens=max(evaluators[n].max_new_tokens for n in chosen),
            pad_token_id=pad_token_id(first.tokenizer),
        )
        for number, own in chosen.items():
            evaluator = evaluators[number]
            waiting[number] = waiting[number][len(own) :]
            for row, ids in zip(own, answers[number], strict=True):
                kept = ids[: evaluator.max_new_tokens]
                texts[number][row] = evaluator.family.answer(evaluator.tokenizer, kept)
    return {number: [own[row] for row in range(len(own))] for number, own in texts.items()}


def _losses(pack: Pack, evaluators: Mapping[int, Evaluator]) -> dict[int, float]:
    """Mean cross entropy of each slot over all label tokens of its rows."""
    alone = {n: e for n, e in evaluators.items() if pack.slots[n].is_alone}
    found = {n: e.loss(pack.slots[n].model, pack.device) for n, e in alone.items()}
    shared = {n: e for n, e in evaluators.items() if n not in alone}
    return found | _losses_in_line(pack, shared)


def _losses_in_line(pack: Pack, evaluators: Mapping[int, Evaluator]) -> dict[int, float]:
    sums = dict.fromkeys(evaluators, 0.0)
    waiting: dict[int, list[DataRow]] = {n: list(e.rows) for n, e in evaluators.items()}
    labels = {n: sum(row["num_labels"] for row in rows) for n, rows in waiting.items()}
    while any(waiting.values()):
        batches: dict[int, list[DataRow]] = {}
        room = TOKENS_A_PASS
        for number, rows in waiting.items():
            while rows and (room > 0 or not batches):
                row = rows.pop()
                room -= len(row["input_ids"])
                batches.setdefault(number, []).append(row)
        for number, total in pack.loss_sums(batches).items():
            sums[number] += total
    return {number: weighted_mean(sums[number], labels[number]) for number in evaluators}
