"""Loss on the solution alone, in chat formats whose templates have no generation marks."""

import pytest
from chat_models import CHATS, chat_tokenizer

from butwait.engines.detokenizer import text_tokens
from butwait.engines.models import tokenizer_fingerprint
from butwait.problems.grading import Grader
from butwait.problems.prompts import encode, messages
from butwait.problems.settings import PromptSettings
from butwait.records import Key, Problem
from butwait.synthesis.builder import Material, Prompting
from butwait.synthesis.builders.external import ExternalSettings, build_external
from butwait.training.encode import NO_LOSS, make_rows

SOLUTION = "2 + 2 = 4.\n\\boxed{4}"
PROBLEM = Problem("q", "What is 2 + 2?", "4", "integer", SOLUTION)
PROMPT = PromptSettings(system="Think.", template="{question}")


@pytest.mark.parametrize("architecture", CHATS)
def test_loss_is_on_the_solution_and_the_end_of_its_turn(architecture: str) -> None:
    tokenizer = chat_tokenizer(architecture)
    assert "generation %}" not in tokenizer.chat_template
    prompting = Prompting(
        messages=lambda p: messages(p, PROMPT),
        eos_token_id=tokenizer.eos_token_id,
        tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
        prompt_ids=lambda p: encode(tokenizer, messages(p, PROMPT), PROMPT),
        encode=lambda text: text_tokens(tokenizer, text),
        decode=tokenizer.decode,
    )
    with Grader() as grader:
        built = build_external(
            Material([], [PROBLEM], prompting, ExternalSettings(), Key.of(0, "test"), grader=grader)
        )
    rows = make_rows(list(built.examples), tokenizer, PROMPT, None, "error")
    assert rows.encoded_again == 0
    opening, _, eos, start = CHATS[architecture]
    ids, labels = rows.input_ids[0], rows.labels[0]
    whole = tokenizer.decode(ids)
    assert whole.startswith(start + opening.replace("ROLE", "system") + "Think.")
    assert whole.endswith(opening.replace("ROLE", "assistant") + SOLUTION + eos)
    with_loss = [i for i, label in enumerate(labels) if label != NO_LOSS]
    assert tokenizer.decode([labels[i] for i in with_loss]) == SOLUTION + eos
    assert with_loss == list(range(with_loss[0], len(ids)))
