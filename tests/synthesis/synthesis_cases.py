"""Small search trees made by hand: one token is one character (its code point)."""

import numpy as np
from hypothesis import strategies as st

from butwait.problems.answers import extract_answer
from butwait.records import Counts, Example, Grade, Key, Node, Problem, SearchTree
from butwait.synthesis.builder import Prompting, StoredTree
from butwait.synthesis.pieces import rebuild

EOS = 0
KEY = Key.of(0, "verified")
PROMPTING = Prompting(
    messages=lambda problem: [{"role": "user", "content": problem.question}],
    eos_token_id=EOS,
    tokenizer_fingerprint="by character",
    prompt_ids=lambda problem: np.array(ids(problem.question), np.int32),
    encode=lambda text: np.array(ids(text), np.int32),
    decode=lambda tokens: "".join(chr(token) for token in tokens if token != EOS),
)


def make_problem(name: str, answer: str = "4") -> Problem:
    return Problem(id=name, question=f"What is {name}?", answer=answer, answer_kind="integer")


def ids(text: str) -> list[int]:
    return [ord(character) for character in text]


def decode(token_ids: np.ndarray) -> str:
    return "".join(chr(token) for token in token_ids if token != EOS)


class TreeBuilder:
    """Grows a tree step by step; ``add`` gives the new node."""

    def __init__(self, problem: str, shard: str = "shard-00000.parquet", row: int = 0) -> None:
        self.problem, self.shard, self.row = problem, shard, row
        self.nodes = [self._node(-1, "", "step", 0.0)]
        self.grades: dict[int, Grade] = {}
        self.leaves: list[int] = []

    @staticmethod
    def _node(parent: int, text: str, finish: str, reward: float) -> Node:
        tokens = ids(text) + ([EOS] if finish == "eos" else [])
        return Node(
            parent=parent,
            token_ids=np.array(tokens, dtype=np.int32),
            text=text,
            logprobs=np.zeros(len(tokens), dtype=np.float32),
            finish=finish,
            reward_logit=reward,
        )

    def add(self, parent: int, text: str, finish: str = "step", reward: float = 0.0) -> int:
        self.nodes.append(self._node(parent, text, finish, reward))
        return len(self.nodes) - 1

    def end(
        self,
        parent: int,
        text: str,
        status: str = "correct",
        finish: str = "box",
        reward: float = 0.0,
        dead: bool = False,
    ) -> int:
        """A finished and graded path; a dead one is no final particle."""
        leaf = self.add(parent, text, finish, reward)
        self.grades[leaf] = Grade(answer="4" if status == "correct" else None, status=status)
        if not dead:
            self.leaves.append(leaf)
        return leaf

    def stored(self) -> StoredTree:
        weight = -np.log(max(len(self.leaves), 1))
        tree = SearchTree(
            problem_id=self.problem,
            sampler="particle_filter",
            prompt_ids=np.array(ids(f"What is {self.problem}?"), dtype=np.int32),
            nodes=self.nodes,
            populations=[],
            leaves=np.array(self.leaves, dtype=np.int32),
            log_weights=np.full(len(self.leaves), weight),
            log_evidence=0.0,
            outcome="complete",
            counts=Counts(),
            grades=self.grades,
        )
        return StoredTree(tree, "search", self.shard, self.row)


def chain(problem: str, texts: list[str], **options: object) -> StoredTree:
    """A tree whose finished paths are one step each, all correct."""
    builder = TreeBuilder(problem)
    for text in texts:
        builder.end(0, text, **options)  # type: ignore[arg-type]
    return builder.stored()


BOX = {answer: f"\\boxed{{{answer}}}" for answer in range(10)}


@st.composite
def random_trees(draw: st.DrawFn, problem: str = "q") -> StoredTree:
    """A tree of random steps, some of them drawn twice, whose finished paths box a random answer,
    graded truthfully (4 is right)."""
    builder = TreeBuilder(problem)
    open_nodes = [0]
    for _ in range(draw(st.integers(1, 30))):
        parent = draw(st.sampled_from(open_nodes))
        finish = draw(st.sampled_from(["step", "step", "step_limit", "eos", "box", "length"]))
        text = draw(st.sampled_from(["one\n\n", "two. ", "\\boxed{9} no\n\n", "wait\n\n"]))
        if finish in ("step", "step_limit"):
            open_nodes.append(builder.add(parent, text, finish))
            continue
        answer = draw(st.sampled_from([4, 5]))
        status = "correct" if answer == 4 else "wrong"
        tail = text + BOX[answer] + (" done" if finish == "eos" else "")
        builder.end(parent, tail, "truncated" if finish == "length" else status, finish)
    return builder.stored()


def roles(example: Example) -> list[tuple[str, str]]:
    return [(span.role, span.text) for span in example.spans]


def check_example(example: Example, stored: StoredTree) -> None:
    """What holds for every example of a question whose answer is 4, whichever builder made it."""
    assert decode(example.completion_ids) == example.text
    assert extract_answer(example.text, "integer") == "4"
    assert example.completion_ids.tolist().count(EOS) == 1
    assert example.completion_ids[-1] == EOS
    assert [span.start for span in example.spans] == [0, *(s.end for s in example.spans[:-1])]
    assert example.spans[-1].end == len(example.completion_ids)
    for span, piece in zip(example.spans, example.provenance["pieces"], strict=True):
        assert decode(example.completion_ids[span.start : span.end]) == span.text
        assert set(example.loss_mask[span.start : span.end].tolist()) <= {piece["loss"]}
    again = rebuild(example, make_problem("q"), lambda *place: stored, PROMPTING)
    assert again.completion_ids.tolist() == example.completion_ids.tolist()
    assert again.loss_mask.tolist() == example.loss_mask.tolist()
    assert (again.spans, again.text) == (example.spans, example.text)
    assert (again.provenance, again.prompt) == (example.provenance, example.prompt)
    assert again.prompt_ids.tolist() == example.prompt_ids.tolist()
