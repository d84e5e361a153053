"""Instruction templates of Alpaca-LoRA, for models whose tokenizer has no chat template.

Wording and line breaks are those of `templates/*.json` of tloen/alpaca-lora (Apache-2.0), because a
model that was trained on one of them expects it to the letter. Read next: `text_rows`.
"""

from __future__ import annotations

from dataclasses import dataclass

from raytune_glm.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Template:
    """How an instruction is put to a model."""

    with_input: str
    """Format with the instruction and its input."""
    without_input: str
    """Format with the instruction alone."""

    def prompt(self, instruction: str, context: str) -> str:
        """Write the prompt of an instruction, with its input where there is one."""
        if context:
            return self.with_input.format(instruction, context)
        return self.without_input.format(instruction)


_ENGLISH_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
)
_ENGLISH = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n"
)
_FRENCH_WITH_INPUT = (
    "Ci-dessous se trouve une instruction qui décrit une tâche, associée à une entrée qui fournit "
    "un contexte supplémentaire. Écrivez une réponse qui complète correctement la demande.\n\n"
)
_FRENCH = (
    "Ci-dessous se trouve une instruction qui décrit une tâche. Écrivez une réponse qui complète "
    "correctement la demande.\n\n"
)
_WITH_INPUT = "### Instruction:\n{}\n\n### Input:\n{}\n\n### Response:"
_WITHOUT_INPUT = "### Instruction:\n{}\n\n### Response:"

TEMPLATES: dict[str, Template] = {
    "alpaca": Template(
        with_input=f"{_ENGLISH_WITH_INPUT}{_WITH_INPUT}\n",
        without_input=f"{_ENGLISH}{_WITHOUT_INPUT}\n",
    ),
    "alpaca_legacy": Template(
        with_input=f"{_ENGLISH_WITH_INPUT}{_WITH_INPUT}",
        without_input=f"{_ENGLISH}{_WITHOUT_INPUT}",
    ),
    "alpaca_short": Template(with_input=f"{_WITH_INPUT}\n", without_input=f"{_WITHOUT_INPUT}\n"),
    "vigogne": Template(
        with_input=(
            f"{_FRENCH_WITH_INPUT}### Instruction:\n{{}}\n\n### Entrée:\n{{}}\n\n### Réponse:\n"
        ),
        without_input=f"{_FRENCH}### Instruction:\n{{}}\n\n### Réponse:\n",
    ),
}
"""Templates by the name that Alpaca-LoRA gives them; the first is the default."""


def known_template(name: str) -> str:
    """Give back the name of a template, or refuse one that does not exist.

    Raises:
        ConfigError: There is no such template.
    """
    if name not in TEMPLATES:
        raise ConfigError(
            f"`model.template` must be one of {', '.join(TEMPLATES)}, but got template={name!r}."
        )
    return name
