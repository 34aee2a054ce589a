"""Solutions that quote special tokens, tags of a thought that are special tokens, and texts within
a completion, in tokenizers that put a space before every text."""

from functools import partial

import numpy as np
import pytest
from synthesis_cases import KEY
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from butwait.engines.detokenizer import Detokenizer, text_tokens
from butwait.engines.model_engine import ModelEngine
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Problem
from butwait.synthesis.builder import Material, Prompting
from butwait.synthesis.builders.backtrack import BacktrackSettings
from butwait.synthesis.builders.external import ExternalSettings, build_external
from butwait.synthesis.pieces import assemble, is_rebuilt, phrase_piece, text_piece
from tokenizer_layouts import bytewise, sentencepiece

PROMPT = PromptSettings(template="{question}")
TEMPLATE = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
SOLUTION = "After <|end|> comes <|user|>, so\n\\boxed{4}"


def of_bytes(**tags: bool) -> PreTrainedTokenizerFast:
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    if tags:
        special += [AddedToken(name, normalized=False, **tags) for name in ("<think>", "</think>")]
    return bytewise(special, eos_token="<|end|>", chat_template=TEMPLATE)


def of_sentencepiece() -> PreTrainedTokenizerFast:
    special = ["<|end|>", "<|user|>", "<|assistant|>"]
    return sentencepiece("first", special, eos_token="<|end|>", chat_template=TEMPLATE)


def prompting_of(tokenizer) -> Prompting:
    return Prompting(
        messages=lambda problem: messages(problem, PROMPT),
        eos_token_id=tokenizer.eos_token_id,
        tokenizer_fingerprint="a test",
        prompt_ids=lambda problem: encode(tokenizer, messages(problem, PROMPT), PROMPT),
        encode=partial(text_tokens, tokenizer),
        decode=Detokenizer(tokenizer).decode,
    )


def example_of(tokenizer, solution: str, **settings):
    problem = Problem("q", "What is <|end|>?", "4", "integer", solution)
    prompting = prompting_of(tokenizer)
    with Grader() as grader:
        built = build_external(
            Material([], [problem], prompting, ExternalSettings(**settings), KEY, grader=grader)
        )
    (example,) = built.examples
    assert is_rebuilt(example, problem, lambda *place: pytest.fail("no tree"), prompting)
    return example


@pytest.mark.parametrize("make", [of_bytes, of_sentencepiece])
@pytest.mark.parametrize("format", ["plain", "think"])
def test_a_solution_that_quotes_special_tokens_ends_once(make, format: str) -> None:
    tokenizer = make()
    example = example_of(tokenizer, SOLUTION, format=format)
    thought = f"<think>\n{SOLUTION}\n</think>\n\n\\boxed{{4}}"
    assert example.text == (SOLUTION if format == "plain" else thought)
    assert tokenizer.decode(example.completion_ids) == example.text + "<|end|>"
    special = np.isin(example.completion_ids, tokenizer.all_special_ids)
    assert np.flatnonzero(special).tolist() == [len(example.completion_ids) - 1]
    assert (example.prompt_ids == tokenizer.eos_token_id).sum() == 1


@pytest.mark.parametrize("takes_space", [False, True])
def test_tags_of_a_thought_that_are_special_tokens(takes_space: bool) -> None:
    tokenizer = of_bytes(lstrip=takes_space, rstrip=takes_space)
    tags = tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    example = example_of(tokenizer, "So\n\\boxed{4}", format="think")
    assert example.text == "<think>\nSo\n\\boxed{4}\n</think>\n\n\\boxed{4}"
    assert [(example.completion_ids == tag).sum() for tag in tags] == [1, 1]
    own = "<think>So\n\\boxed{4}</think>\\boxed{4}" if takes_space else example.text
    assert Detokenizer(tokenizer).decode(example.completion_ids.tolist()) == own
    kept = example_of(tokenizer, "<think>\nSo</think>\n\\boxed{4}")
    assert [(kept.completion_ids == tag).sum() for tag in tags] == [1, 1]


@pytest.mark.parametrize("phrase", ["But wait,", "</s> no", " hm"])
def test_a_phrase_within_a_completion_gets_no_space(phrase: str) -> None:
    tokenizer = of_sentencepiece()
    prompting, settings = prompting_of(tokenizer), BacktrackSettings(separator="\n")
    first = text_piece("mistake", "Is it 5.", prompting, True, first=True)
    doubt = phrase_piece(phrase, first.text, settings, prompting)
    last = text_piece("solution", "But 4.", prompting, True)
    problem = Problem("q", "?", "4")
    example = assemble([first, doubt, last], problem, np.zeros(1, np.int32), prompting, {})
    assert tokenizer.decode(example.completion_ids) == f"Is it 5.\n{phrase}\nBut 4.<|end|>"
    assert example.text == f"Is it 5.\n{phrase}\nBut 4."


class OnlyEncodes(ModelEngine):
    async def _extend(self, asks): ...

    async def score(self, prefixes, continuations): ...

    def release(self, prefixes): ...


def test_what_a_search_inserts_is_within_a_completion() -> None:
    tokenizer = of_sentencepiece()
    engine = OnlyEncodes(tokenizer, PROMPT, [tokenizer.eos_token_id])
    start = tokenizer("Is 5.", add_special_tokens=False)["input_ids"]
    for text in ("\n\nBut wait,", " But", "<|end|>", "a"):
        assert tokenizer.decode([*start, *engine.encode(text)]) == f"Is 5.{text}"
        assert tokenizer.eos_token_id not in engine.encode(text)
