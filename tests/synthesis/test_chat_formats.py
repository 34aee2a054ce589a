"""Prompt and completion in the chat formats of well-known models: an example's tokens are those of
the whole conversation in the tokenizer's own template, up to the token that ends the turn."""

from dataclasses import dataclass

import pytest
from synthesis_cases import KEY
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.synthesis.builder import Material, Prompting
from butwait.synthesis.builders.external import ExternalSettings, build_external

SOLUTION = "2 + 2 = 4.\n\\boxed{4}"
PROBLEM = Problem("q", "What is 2 + 2?", "4", "integer", SOLUTION)
PROMPT = PromptSettings(template="{question}")


@dataclass(frozen=True)
class Chat:
    """A model's chat format: ``start`` and ``end`` stand around a turn's text."""

    start: str
    end: str
    eos: str
    specials: tuple[str, ...]
    opening: str = ""
    default_system: str | None = None

    @property
    def template(self) -> str:
        """As such templates are written: every message, then the beginning of the answer."""
        before, after = (part.replace("\n", "\\n") for part in self.start.split("ROLE"))
        end, opening = self.end.replace("\n", "\\n"), self.opening

        def turn(role: str, text: str) -> str:
            return f"{{{{ '{before}' + {role} + '{after}' + {text} + '{end}' }}}}"

        system = ""
        if self.default_system is not None:
            said = turn("'system'", f"'{self.default_system}'")
            system = "{% if messages[0]['role'] != 'system' %}" + said + "{% endif %}"
        return (
            f"{opening}{system}{{% for message in messages %}}"
            + turn("message['role']", "message['content']")
            + "{% endfor %}{% if add_generation_prompt %}"
            + f"{{{{ '{before}assistant{after}' }}}}"
            + "{% endif %}"
        )


CHATS = {
    "phi-4": Chat(
        "<|im_start|>ROLE<|im_sep|>",
        "<|im_end|>",
        "<|im_end|>",
        ("<|im_start|>", "<|im_sep|>", "<|im_end|>"),
    ),
    "granite-3": Chat(
        "<|start_of_role|>ROLE<|end_of_role|>",
        "<|end_of_text|>\n",
        "<|end_of_text|>",
        ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>"),
    ),
    "llama-3": Chat(
        "<|start_header_id|>ROLE<|end_header_id|>\n\n",
        "<|eot_id|>",
        "<|eot_id|>",
        ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        opening="<|begin_of_text|>",
    ),
    "qwen2.5": Chat(
        "<|im_start|>ROLE\n",
        "<|im_end|>\n",
        "<|im_end|>",
        ("<|im_start|>", "<|im_end|>"),
        default_system="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
}

EXPECTED = {
    "phi-4": "<|im_start|>user<|im_sep|>What is 2 + 2?<|im_end|><|im_start|>assistant<|im_sep|>",
    "granite-3": (
        "<|start_of_role|>user<|end_of_role|>What is 2 + 2?<|end_of_text|>\n"
        "<|start_of_role|>assistant<|end_of_role|>"
    ),
    "llama-3": (
        "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2 + 2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    ),
    "qwen2.5": (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
        "<|im_end|>\n<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n"
    ),
}


def tokenizer_of(chat: Chat, **more: object) -> PreTrainedTokenizerFast:
    """A tokenizer of bytes with the model's special tokens and template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE({letter: i for i, letter in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token=chat.eos,
        additional_special_tokens=[s for s in chat.specials if s != chat.eos],
    )
    tokenizer.chat_template = chat.template
    return tokenizer


def example_of(tokenizer, prompt: PromptSettings, **settings):
    prompting = Prompting(
        messages=lambda problem: messages(problem, prompt),
        eos_token_id=tokenizer.eos_token_id,
        tokenizer_fingerprint="a test",
        prompt_ids=lambda problem: encode(tokenizer, messages(problem, prompt), prompt),
        encode=lambda text: text_tokens(tokenizer, text),
        decode=Detokenizer(tokenizer).decode,
    )
    with Grader() as grader:
        built = build_external(
            Material([], [PROBLEM], prompting, ExternalSettings(**settings), KEY, grader=grader)
        )
    (example,) = built.examples
    return example


@pytest.mark.parametrize("name", CHATS)
@pytest.mark.parametrize("format", ["plain", "think"])
def test_an_example_is_the_conversation_in_the_models_own_template(name, format) -> None:
    tokenizer = tokenizer_of(CHATS[name])
    example = example_of(tokenizer, PROMPT, format=format)
    assert tokenizer.decode(example.prompt_ids) == EXPECTED[name]
    answer = {"role": "assistant", "content": example.text}
    conversation = tokenizer.apply_chat_template(
        [*example.prompt, answer], tokenize=True, return_dict=False
    )
    own = [*example.prompt_ids.tolist(), *example.completion_ids.tolist()]
    assert conversation[: len(own)] == own
    # Behind the turn's end a template may put a line end, which is not the model's to write.
    assert tokenizer.decode(conversation[len(own) :]).strip() == ""
    assert example.completion_ids[-1] == tokenizer.eos_token_id
    thought = f"<think>\n{SOLUTION}\n</think>\n\n\\boxed{{4}}"
    assert example.text == (SOLUTION if format == "plain" else thought)


def test_a_template_of_ones_own() -> None:
    own = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }} {% endfor %}[answer] "
    prompt = PromptSettings(template="{question}", template_options={"chat_template": own})
    tokenizer = tokenizer_of(CHATS["phi-4"])
    example = example_of(tokenizer, prompt)
    assert tokenizer.decode(example.prompt_ids) == "[user] What is 2 + 2? [answer] "
    assert tokenizer.decode(example.completion_ids) == SOLUTION + "<|im_end|>"
