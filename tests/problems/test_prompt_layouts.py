"""Tokenizers and chat templates as models come with them."""

import datetime

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem, UserError
from tokenizer_layouts import CHATML, GRANITE, LLAMA, bytewise, sentencepiece

PROMPT = PromptSettings(template="{question}")


def ids_of(tokenizer, prompt: PromptSettings = PROMPT, question: str = "2 + 2?") -> list[int]:
    return encode(tokenizer, messages(Problem("p", question, "4"), prompt), prompt).tolist()


def text_of(tokenizer, **prompt) -> str:
    prompt = {"template": "{question}"} | prompt
    return tokenizer.decode(ids_of(tokenizer, PromptSettings.model_validate(prompt)))


def chatml(template=CHATML):
    special = ["<|im_start|>", "<|im_end|>"]
    return bytewise(special, eos_token="<|im_end|>", chat_template=template)


def granite():
    """One token for all roles."""
    special = ["<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"]
    end = {f"{role}_token": "<|end_of_text|>" for role in ("bos", "eos", "pad", "unk")}
    return bytewise(special, chat_template=GRANITE, **end)


def olmo():
    """Unknown is EOS, and the template begins with it as BOS."""
    template = "{{ bos_token }}<|user|>\n{{ messages[0].content }}\n<|assistant|>"
    end = {f"{role}_token": "<|endoftext|>" for role in ("bos", "eos", "unk")}
    return bytewise(["<|endoftext|>"], pad_token=None, chat_template=template, **end)


def test_a_token_that_has_other_roles_is_not_unknown() -> None:
    assert text_of(granite()) == (
        "<|start_of_role|>user<|end_of_role|>2 + 2?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    )
    assert text_of(olmo()) == "<|endoftext|><|user|>\n2 + 2?\n<|assistant|>"


@pytest.mark.parametrize("role", ["eos_token", "bos_token", "pad_token"])
def test_what_is_not_known_is_found_though_unknown_has_another_role(role: str) -> None:
    backend = Tokenizer(models.WordLevel({"<u>": 0, "</s>": 1, "two": 2}, unk_token="<u>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<u>",
        chat_template="{{ messages[0].content }} <u>",
        name_or_path="words",
        **{"eos_token": "</s>", role: "<u>"},
    )
    assert ids_of(tokenizer, question="two two") == [2, 2, 0]
    with pytest.raises(UserError, match="words does not know all of this prompt: 'two three'"):
        ids_of(tokenizer, question="two three")


@pytest.mark.parametrize("kind", ["first", "every", "never"])
@pytest.mark.parametrize("template", ["[INST] {question} [/INST]", "<s>[INST] {question} [/INST]"])
def test_one_bos_whoever_writes_it(kind: str, template: str) -> None:
    tokenizer = sentencepiece(kind, chat_template=LLAMA)
    for prompt in (
        PROMPT,
        PromptSettings(style="plain", template=template),
        PromptSettings(style="plain", system="<s>", template="{question}"),
        PromptSettings(template_options={"chat_template": "{{ bos_token }}" + LLAMA}),
    ):
        ids = ids_of(tokenizer, prompt)
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert tokenizer.eos_token_id not in ids


def test_several_chat_templates() -> None:
    several = {"rag": "R {{ messages[0].content }}", "tool_use": "T {{ messages[0].content }}"}
    as_list = [{"name": name, "template": source} for name, source in several.items()]
    for known in (several, as_list):
        tokenizer = chatml()
        tokenizer.chat_template = known
        with pytest.raises(UserError, match=r"templates rag, tool_use and none by default; name"):
            text_of(tokenizer)
        with pytest.raises(UserError, match=r"templates rag, tool_use, and 'tool' is none of them"):
            text_of(tokenizer, template_options={"chat_template": "tool"})
        assert text_of(tokenizer, template_options={"chat_template": "rag"}) == "R 2 + 2?"
        own = "O {{ messages[0].content }}"
        assert text_of(tokenizer, template_options={"chat_template": own}) == "O 2 + 2?"
    assert text_of(chatml(several | {"default": "D {{ messages[0].content }}"})) == "D 2 + 2?"
    assert text_of(chatml({"chat": several["rag"]})) == "R 2 + 2?"


def test_several_chat_templates_come_from_files_too(tmp_path) -> None:
    several = {"default": "D {{ messages[0].content }}", "rag": "R {{ messages[0].content }}"}
    chatml(several).save_pretrained(tmp_path)
    loaded = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert text_of(loaded) == "D 2 + 2?"
    assert text_of(loaded, template_options={"chat_template": "rag"}) == "R 2 + 2?"


def test_a_template_of_ones_own_where_the_tokenizer_has_none() -> None:
    own = "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    assert text_of(chatml(None), template_options={"chat_template": own}) == "[2 + 2?]"
    with pytest.raises(UserError, match="has no chat template"):
        text_of(chatml(None), template_options={"chat_template": "rag"})
    with pytest.raises(UserError, match="has the chat templates default, and 7 is none of them"):
        text_of(chatml(), template_options={"chat_template": 7})


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('only\\none turn') }}", "only one turn"),
        ("{{ messages[0].content + 1 }}", "can only concatenate str"),
        ("{{ tools | length }}", "NoneType"),
        ("{{ messages[9].content }}", "no element 9"),
        ("{{ nothing.at.all }}", "'nothing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ messages[0].content | unheard_of }}", "unheard_of"),
        ("{% if %}", "Expected an expression"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
        ("{% for i in range(90000) %}" * 3 + "x" + "{% endfor %}" * 3, "loops on and on"),
        ("{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n else '' }}{% endmacro %}{{ f(90) }}", "on"),
    ],
)
def test_whatever_goes_wrong_in_a_template_is_one_sentence(template: str, said: str) -> None:
    with pytest.raises(UserError, match="refuses this prompt") as error:
        text_of(chatml(template))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% for part in messages[0].content %}{{ part.text }}{% endfor %}<|im_start|>",
        "{% for m in messages if m.role == 'human' %}{{ m.content }}{% endfor %}<|im_start|>",
    ],
)
def test_a_template_that_leaves_the_question_out_is_refused(template: str) -> None:
    with pytest.raises(UserError, match="leaves the question out"):
        text_of(chatml(template))


def test_a_template_may_edit_the_question() -> None:
    assert text_of(chatml("{{ messages[0].content | tojson }}"), template='"{question}"') == (
        '"\\"2 + 2?\\""'
    )
    assert text_of(chatml("{{ messages[0].content | trim }}"), template=" {question}\n") == "2 + 2?"


def test_a_prompt_without_tokens_is_refused() -> None:
    tokenizer = chatml()
    with pytest.raises(UserError, match="has no token"):
        ids_of(tokenizer, PromptSettings(style="plain", template="{question}"), "")


def test_the_hour_of_every_prompt_is_midnight() -> None:
    asked = "{{ messages[0].content }} {{ strftime_now('%Y-%-m-%-d %H:%M:%S %p %F') }}"
    date = datetime.date(2025, 3, 4)
    assert text_of(chatml(asked), date=date) == "2 + 2? 2025-3-4 00:00:00 AM 2025-03-04"
