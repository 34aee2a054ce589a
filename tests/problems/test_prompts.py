"""From a question to token ids."""

import datetime

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError

PROBLEM = Problem(id="p", question="what is {x} ?", answer="1")
CHAT = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
GENERATION = "{% if add_generation_prompt %}assistant{% endif %}"


def word_tokenizer(chat_template: str | None = CHAT + GENERATION) -> PreTrainedTokenizerFast:
    """A word-level tokenizer that, like Llama's, puts BOS before plain text; here also EOS
    after it."""
    known = "user system assistant what is {x} ? be brief solve : \\boxed{}"
    words = ["<s>", "</s>", "<unk>", *known.split()]
    vocabulary = {word: i for i, word in enumerate(words)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        chat_template=chat_template,
    )


def words_of(prompt: PromptSettings, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    ids = encode(tokenizer, messages(PROBLEM, prompt), prompt)
    assert ids.dtype == np.int32
    return tokenizer.convert_ids_to_tokens(ids.tolist())


def test_messages_replace_only_the_question() -> None:
    prompt = PromptSettings(system="be brief", template="solve : {question} \\boxed{}")
    assert messages(PROBLEM, prompt) == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "solve : what is {x} ? \\boxed{}"},
    ]


def test_the_default_asks_for_a_box() -> None:
    (message,) = messages(PROBLEM, PromptSettings())
    assert message["content"] == (
        "what is {x} ?\nPlease reason step by step, and put your final answer within \\boxed{}."
    )


def test_a_chat_prompt_has_one_bos_and_ends_where_the_assistant_begins() -> None:
    assert words_of(PromptSettings(template="{question}"), word_tokenizer()) == [
        "<s>", "user", "what", "is", "{x}", "?", "assistant",
    ]  # fmt: skip


def test_a_plain_prompt_keeps_the_tokenizers_bos_and_drops_its_eos() -> None:
    prompt = PromptSettings(style="plain", system="be brief", template="{question}")
    assert words_of(prompt, word_tokenizer(None)) == [
        "<s>", "be", "brief", "what", "is", "{x}", "?",
    ]  # fmt: skip


def test_template_options_reach_the_chat_template() -> None:
    template = CHAT + "{% if enable_thinking %}be{% else %}brief{% endif %}"
    prompt = PromptSettings(template="{question}", template_options={"enable_thinking": True})
    assert words_of(prompt, word_tokenizer(template))[-1] == "be"


@pytest.mark.parametrize("given", [None, "2025-02-01"])
@pytest.mark.parametrize("how", ["%d %b %Y", "%B %d, %Y", "%Y-%m-%d", "%A %-d %j"])
def test_a_template_that_writes_todays_date_is_told_the_same_one_every_day(
    given: str | None, how: str
) -> None:
    date = datetime.date.fromisoformat(given or "2024-07-26")
    wanted = date.strftime(how)
    today = f"{{% set f = '{how}' %}}{{{{ 'be' if strftime_now(f) == '{wanted}' else 'brief' }}}}"
    asked = "{% if strftime_now is defined %}" + today + "{% endif %}"
    prompt = PromptSettings.model_validate(
        {"template": "{question}"} | ({"date": given} if given else {})
    )
    words = words_of(prompt, word_tokenizer(CHAT + asked))
    assert words == ["<s>", "user", "what", "is", "{x}", "?", "be"]


def test_no_chat_template_is_an_error_that_names_the_way_out() -> None:
    with pytest.raises(UserError, match=r"no chat template; set prompt\.style: plain"):
        words_of(PromptSettings(template="{question}"), word_tokenizer(None))


def test_a_template_that_refuses_a_system_message_is_an_error() -> None:
    refusing = "{{ raise_exception('System role not supported') }}"
    with pytest.raises(UserError, match="System role not supported"):
        words_of(PromptSettings(system="be brief"), word_tokenizer(refusing))


def test_text_that_the_tokenizer_does_not_know_is_an_error() -> None:
    with pytest.raises(UserError, match=r"does not know all of this prompt: 'what is \{x\}"):
        words_of(PromptSettings(), word_tokenizer())


def test_a_template_without_a_question_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"must contain \{question\}"):
        PromptSettings(template="Solve this.")
