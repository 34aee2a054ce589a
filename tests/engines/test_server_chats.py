"""Chats that a server makes into tokens: its day and its template are not ours."""

import datetime
from typing import Any

import pytest
from engine_contract import GREEDY, KEY
from openai_toy import CHAT_TEMPLATE, Toy, serving, tokenizer_with_chat
from test_openai_engine import PROBLEM, STEPS, TURNS, Run, engine_of, steps

from butwait.engines.servers.chats import check_template, going_on
from butwait.problems.prompts import encode
from butwait.problems.settings import PromptSettings
from butwait.records import UserError

pytestmark = pytest.mark.usefixtures("short_pauses")

DATED = "{% if not day is defined %}{% set day = strftime_now('%d %b %Y') %}{% endif %}"
DATED += "{{ day }}\n" + CHAT_TEMPLATE
DATE = datetime.date(2025, 3, 4)


def dated() -> Any:
    made = tokenizer_with_chat()
    made.chat_template = DATED
    return made


def test_a_turn_goes_on_behind_the_prompt_of_its_day() -> None:
    prompt = PromptSettings(template="{question}", date=DATE)
    chat = [{"role": "user", "content": "2 + 2?"}]
    tokenizer = dated()
    text = "04 Mar 2025\nuser: 2 + 2?assistant: "  # Jinja drops a line break behind a block
    assert tokenizer.decode(encode(tokenizer, chat, prompt)) == text
    assert going_on(tokenizer, chat, "It is", prompt) == text + "It is"


@pytest.mark.parametrize(
    ("tokenizer", "options", "warned"),
    [
        (dated, {}, True),
        (dated, {"day": "26 Jul 2024"}, False),
        (tokenizer_with_chat, {}, False),
    ],
)
def test_a_server_that_writes_its_own_day_is_a_warning(
    tokenizer: Any, options: dict[str, Any], warned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    check_template(tokenizer(), PromptSettings(date=DATE, template_options=options))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == warned
    assert all("not 2025-03-04 (prompt.date)" in each for each in said)


@pytest.mark.parametrize("mode", ["auto", "chat"])
def test_a_template_of_ones_own_is_refused_where_chats_are_asked(mode: str, run: Run) -> None:
    own = TURNS.model_copy(update={"template_options": {"chat_template": CHAT_TEMPLATE}})
    told = r"template_options: chat_template does not reach"
    with serving(Toy(completions=False)) as toy:
        if mode == "chat":  # nobody need be asked to know it
            with pytest.raises(UserError, match=told):
                engine_of(toy, own, mode=mode)
        else:
            engine = engine_of(toy, own, mode=mode)
            with pytest.raises(UserError, match=told):
                run(engine.extend([engine.start(PROBLEM)], STEPS, GREEDY, [KEY]))
            run(engine.close())
    with serving(Toy()) as toy:
        steps(toy, run, prompt=own)
