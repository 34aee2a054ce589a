"""Chats: a server makes them into tokens itself, by the model's own template, on its own day."""

import datetime
import logging
from contextlib import suppress
from typing import Any

from butwait.engines.engine import GoingOnUnsupportedError
from butwait.problems.prompts import Message, chat_template, render
from butwait.problems.settings import PromptSettings
from butwait.records import UserError

logger = logging.getLogger(__name__)

OTHER_DAY = datetime.timedelta(400)
"""To a day of another weekday, month and year."""


def check_template(tokenizer: Any, prompt: PromptSettings) -> None:
    """Warns of a chat template that writes the day, which at a server is today and not
    ``prompt.date``. Raises UserError for a chat template of one's own, which no server is sent."""
    if "chat_template" in prompt.template_options:
        raise UserError(
            "prompt.template_options: chat_template does not reach a server that is asked by "
            "chats, which has its own: use engine.mode: completions, or give the server the "
            "template and leave it out here"
        )
    asked: list[Message] = [{"role": "user", "content": prompt.template}]
    later = prompt.model_copy(update={"date": prompt.date + OTHER_DAY})
    try:
        template = chat_template(tokenizer, prompt)
        here, there = (
            render(tokenizer, asked, template, day, add_generation_prompt=True)
            for day in (prompt, later)
        )
    except Exception:  # what is wrong with the template is said where a prompt is made
        return
    if here != there:
        logger.warning(
            "the chat template of %s writes the day, and a server that is asked by chats writes "
            "today's, not %s (prompt.date): its prompts are others every day; use engine.mode: "
            "completions",
            *(tokenizer.name_or_path, prompt.date),
        )


def going_on(tokenizer: Any, chat: list[Message], text: str, prompt: PromptSettings) -> str:
    """The chat with an assistant's turn that begins with ``text``, as the template writes it.

    Raises GoingOnUnsupportedError where the template does not leave that turn as it is.
    """
    turn: list[Message] = [*chat, {"role": "assistant", "content": text}]
    template = chat_template(tokenizer, prompt)
    whole: str | None = None
    with suppress(Exception):  # the turn is not found in what the template made of it, or refused
        whole = render(tokenizer, turn, template, prompt, continue_final_message=True)
    before = render(tokenizer, chat, template, prompt, add_generation_prompt=True)
    if whole is None or whole != before + text:
        raise GoingOnUnsupportedError(
            f"the chat template of {tokenizer.name_or_path} edits a turn that is "
            "to be continued (a <think>, or spaces at its end): use engine.mode: completions"
        )
    return whole
