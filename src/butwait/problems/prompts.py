"""From a problem to the prompt's token ids."""

import datetime
from typing import Any

import numpy as np
from jinja2 import TemplateError

from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError

Message = dict[str, str]
"""One chat message: {"role": "system" | "user" | "assistant", "content": text}."""


def messages(problem: Problem, prompt: PromptSettings) -> list[Message]:
    """The chat messages of a problem: the system's, where there is one, and the user's."""
    # Not str.format: templates and questions are full of braces.
    user = prompt.template.replace("{question}", problem.question)
    system = [] if prompt.system is None else [{"role": "system", "content": prompt.system}]
    return [*system, {"role": "user", "content": user}]


def encode(tokenizer: Any, chat: list[Message], prompt: PromptSettings) -> np.ndarray:
    """int32 (p,): the tokens that a completion follows.

    A chat prompt ends where the assistant's turn begins. Its special tokens, BOS included, come
    from the chat template alone; those of a plain prompt come from the tokenizer, less a closing
    EOS. Raises UserError where the tokenizer has no chat template or its template refuses these
    messages, and where the text holds pieces that the tokenizer does not know.
    """
    if prompt.style == "chat":
        ids = _encode_chat(tokenizer, chat, prompt)
    else:
        ids = _encode_plain(tokenizer, chat)
    if tokenizer.unk_token_id is not None and tokenizer.unk_token_id in ids:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} does not know all of this prompt: "
            f"{chat[-1]['content']!r}; mend prompt.template or the question"
        )
    return np.asarray(ids, dtype=np.int32)


def _encode_chat(tokenizer: Any, chat: list[Message], prompt: PromptSettings) -> list[int]:
    if not tokenizer.chat_template:
        raise UserError(
            f"the tokenizer of {tokenizer.name_or_path} has no chat template; set "
            "prompt.style: plain, or take an instruction-tuned model"
        )
    options = dict(prompt.template_options)
    own = options.get("chat_template")
    if "strftime_now" in f"{own}{tokenizer.chat_template}":
        options["chat_template"] = _dated(prompt.date) + tokenizer.get_chat_template(own)
    try:
        return tokenizer.apply_chat_template(
            chat,
            add_generation_prompt=True,
            tokenize=True,
            return_dict=False,
            **options,
        )
    except TemplateError as error:
        raise UserError(
            f"the chat template of {tokenizer.name_or_path} refuses this prompt ({error}); "
            "some templates take no system message: see prompt.system"
        ) from error


def _dated(date: datetime.date) -> str:
    """What makes every day the same in a chat template, which reads the clock by this name."""
    known = ("-d", *"aAbBcdejmuUVwWxyYD")
    text = "".join(f"|replace('%{name}', {date.strftime('%' + name)!r})" for name in known)
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{text} -}}}}{{%- endmacro +%}}"


def _encode_plain(tokenizer: Any, chat: list[Message]) -> list[int]:
    text = "\n\n".join(message["content"] for message in chat)
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
