"""Old commands keep working: flags of the tools that this project replaces become a run file.

Each tool is a table in a file of its own; `command` reads the flags, `translation` writes the file.
Nothing here knows how to train. Read next: `table`, `chatglm_finetuning`.
"""

from __future__ import annotations

from raytune_glm.legacy.alpaca_lora import ALPACA_LORA
from raytune_glm.legacy.chatglm_finetuning import CHATGLM_FINETUNING
from raytune_glm.legacy.chatglm_tuning import CHATGLM_TUNING
from raytune_glm.legacy.command import is_old_command
from raytune_glm.legacy.table import Tool
from raytune_glm.legacy.translation import Translation, translate_command

TOOLS: tuple[Tool, ...] = (CHATGLM_FINETUNING, CHATGLM_TUNING, ALPACA_LORA)
"""The replaced tools. A command is of the one that knows most of its flags, the first of equals."""


def translate(words: list[str]) -> Translation:
    """Turn an old command into a run file.

    Args:
        words: The command's words behind the script's name.

    Raises:
        ConfigError: A flag is unknown or cannot be honoured; all of them in one message.
    """
    return translate_command(words, TOOLS)


__all__ = ["TOOLS", "Translation", "is_old_command", "translate"]
