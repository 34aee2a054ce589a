"""From a problem to the prompt's token ids."""

import datetime
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from butwait.problems.settings import PromptSettings
from butwait.problems.tokens import following, ids_of, joined, part, special_tokens
from butwait.records import Problem, UserError

_ANSWER = "The answer is 2."
_MOST_LINES = 1_000_000
"""Lines of a chat template that are run for one prompt: half a second. Real ones run hundreds."""
PLAIN = PromptSettings(style="plain", template="{question}")
"""Of a question that is the whole prompt."""
Message = dict[str, str]
"""One chat message: {"role": "system" | "user" | "assistant", "content": text}."""


def messages(problem: Problem, prompt: PromptSettings) -> list[Message]:
    """The chat messages of a problem: the system's, where there is one, earlier turns, and the
    user's. A conversation that begins with a system message keeps its own."""
    # Not str.format: templates and questions are full of braces.
    user = prompt.template.replace("{question}", problem.question)
    own = prompt.system is None or any(turn["role"] == "system" for turn in problem.before[:1])
    system = [] if own else [{"role": "system", "content": str(prompt.system)}]
    return [*system, *problem.before, {"role": "user", "content": user}]


def layout(problem: Problem, prompt: PromptSettings) -> PromptSettings:
    """How this problem is put: as ever, or, where it is a whole prompt, as it stands."""
    return PLAIN if problem.plain else prompt


def encode(
    tokenizer: Any, chat: list[Message], prompt: PromptSettings, written: str = ""
) -> np.ndarray:
    """int32 (p,): the tokens that a completion follows.

    A chat prompt ends where the assistant's turn begins. Its special tokens, BOS included, come
    from the chat template alone; those of a plain prompt come from the tokenizer, less a closing
    EOS. No prompt begins with two BOS. Names of special tokens are these tokens in what the recipe
    says (``system``, ``template``), and text in the question and in earlier turns.

    Args:
        tokenizer: a ``transformers`` tokenizer.
        chat: the ``messages`` of a problem; a last message that is not made by ``prompt.template``
            is taken for a question as a whole.
        prompt: its layout.
        written: what will stand behind the prompt; tokens that it names are text in the question.

    Raises UserError where the tokenizer has no chat template, or several and none by default,
    where its template refuses these messages or leaves the question out, and where the text holds
    pieces that the tokenizer does not know.
    """
    template = chat_template(tokenizer, prompt) if prompt.style == "chat" else ""
    before, question, after = _question(chat[-1]["content"], prompt)
    around = f"{written}\n{prompt.template}\n{template}"
    within = f"{around}{chat}" + "".join(turn["content"] for turn in chat)
    question, mark = part(tokenizer, question, around, within=within)
    earlier = [
        turn
        if turn == {"role": "system", "content": prompt.system}
        else {**turn, "content": part(tokenizer, turn["content"], around, within=within)[0]}
        for turn in chat[:-1]
    ]
    parted = [*earlier, {**chat[-1], "content": question.join([before, *after])}]
    if prompt.style == "chat":
        text = _rendered(tokenizer, parted, template, prompt)
        ids = joined(partial(ids_of, tokenizer), text, mark)
    else:
        ids = _encode_plain(tokenizer, parted, mark)
    while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        del ids[0]
    if not ids:
        raise UserError(f"the prompt of {tokenizer.name_or_path} has no token: see prompt.template")
    unknown = tokenizer.unk_token_id
    if unknown is not None:
        # Some tokenizers have one token for all roles, and templates write it.
        others = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
        read = joined(partial(ids_of, tokenizer), question, mark) if unknown in others else ids
        if unknown in read:
            raise UserError(
                f"the tokenizer of {tokenizer.name_or_path} does not know all of this prompt: "
                f"{chat[-1]['content']!r}; mend prompt.template or the question"
            )
    return np.asarray(ids, dtype=np.int32)


def turn_end(tokenizer: Any, prompt: PromptSettings) -> int:
    """The token that ends a completion: what the chat template ends the assistant's turn with
    (``<|im_end|>`` where EOS is ``<|endoftext|>``), and EOS for a plain prompt or where the
    template writes no special token there."""
    eos: int = tokenizer.eos_token_id
    if prompt.style != "chat":
        return eos
    asked = {"role": "user", "content": prompt.template.replace("{question}", "1 + 1?")}
    said = [asked, {"role": "assistant", "content": _ANSWER}]
    try:
        template = chat_template(tokenizer, prompt)
        text = render(tokenizer, said, template, prompt)
    except Exception:  # what is wrong with the template is said where a prompt is made
        return eos
    special = special_tokens(tokenizer)
    ids = ids_of(tokenizer, text.rpartition(_ANSWER)[2])
    return next((i for i in ids if i in special or i == eos), eos)


def _question(content: str, prompt: PromptSettings) -> tuple[str, str, list[str]]:
    """What stands before the question in a message, the question, and what follows each time that
    the message has it."""
    before, *after = prompt.template.split("{question}")
    length, rest = divmod(len(content) - len(before) - sum(map(len, after)), len(after))
    question = content[len(before) : len(before) + max(0, length)]
    if rest == 0 and question.join([before, *after]) == content:
        return before, question, after
    return "", content, [""]


def chat_template(tokenizer: Any, prompt: PromptSettings) -> str:
    """The source of the chat template that questions are put by. Raises UserError where there is
    none, or none of that name."""
    own, known = prompt.template_options.get("chat_template"), tokenizer.chat_template or {}
    if isinstance(known, str):
        known = {"default": known}
    elif not isinstance(known, dict):
        known = {each["name"]: each["template"] for each in known if isinstance(each, dict)}
    name = "tool_use" if own is None and prompt.template_options.get("tools") else own
    if isinstance(name, str) and name in known:
        return known[name]
    if own is None and ("default" in known or len(known) == 1):
        return known.get("default") or next(iter(known.values()))
    if isinstance(own, str) and "{" in own:
        return own
    model = tokenizer.name_or_path
    if not known:
        raise UserError(
            f"the tokenizer of {model} has no chat template; set "
            "prompt.style: plain, or take an instruction-tuned model"
        )
    raise UserError(
        f"the tokenizer of {model} has the chat templates {', '.join(sorted(known))}"
        + (" and none by default" if own is None else f", and {own!r} is none of them")
        + "; name one: prompt.template_options: {chat_template: NAME}"
    )


def _rendered(tokenizer: Any, chat: list[Message], template: str, prompt: PromptSettings) -> str:
    """The conversation as text, up to where the assistant begins."""

    def made(messages: list[Message]) -> str:
        try:
            return render(tokenizer, messages, template, prompt, add_generation_prompt=True)
        except Exception as error:  # whatever it is, the template made it
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            raise UserError(
                f"the chat template of {tokenizer.name_or_path} refuses this prompt ({reason}); "
                "some templates take no system message: see prompt.system"
            ) from error

    text, last = made(chat), chat[-1]
    if last["content"].strip() not in text:
        other = [*chat[:-1], {**last, "content": last["content"] + "?"}]
        if made(other) == text:
            raise UserError(
                f"the chat template of {tokenizer.name_or_path} leaves the question out (it may "
                "want contents in parts): give another one, prompt.template_options: "
                "{chat_template: ...}, or set prompt.style: plain"
            )
    return text


def render(
    tokenizer: Any, chat: list[Message], template: str, prompt: PromptSettings, **ending: bool
) -> str:
    """What the template makes of a conversation, on the prompt's day. ``ending``: how it ends
    (``add_generation_prompt``, ``continue_final_message``). Raises whatever the template does."""
    if "strftime_now" in template:
        template = _dated(prompt.date) + template
    options = {k: v for k, v in prompt.template_options.items() if k != "chat_template"}
    with _bounded():
        text: str = tokenizer.apply_chat_template(
            chat, chat_template=template, tokenize=False, **ending, **options
        )
    return text


@contextmanager
def _bounded() -> Iterator[None]:
    """Ends a chat template that loops on and on with a RuntimeError: a model's folder may come from
    anybody, and Jinja's sandbox bounds each loop but not loops inside of loops."""
    lines = 0

    def line(frame: Any, event: str, value: Any) -> Any:
        nonlocal lines
        lines += 1
        if lines > _MOST_LINES:
            raise RuntimeError(f"it loops on and on: {_MOST_LINES:,} of its lines were run")
        return line

    def call(frame: Any, event: str, value: Any) -> Any:
        return line if frame.f_code.co_filename == "<template>" else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        yield
    finally:
        sys.settrace(before)


def _dated(date: datetime.date) -> str:
    """What makes every day the same in a chat template, which reads the clock by this name. The day
    begins at midnight."""
    known = ("-d", "-m", "-H", "-I", "-M", *"aAbBcdejmuUVwWxyYDFHIMSTpfZz")
    text = "".join(f"|replace('%{name}', {date.strftime('%' + name)!r})" for name in known)
    return f"{{%- macro strftime_now(format) -%}}{{{{- format{text} -}}}}{{%- endmacro +%}}"


def _encode_plain(tokenizer: Any, chat: list[Message], mark: str) -> list[int]:
    first, *rest = "\n\n".join(message["content"] for message in chat).split(mark)
    ids_of(tokenizer, first)
    ids: list[int] = tokenizer(first)["input_ids"]
    ids = ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids
    return [*ids, *(i for piece in rest for i in following(partial(ids_of, tokenizer), piece))]
