"""Small search trees made by hand: one token is one character (its code point)."""

import numpy as np

from butwait.records import Counts, Grade, Key, Node, Problem, SearchTree
from butwait.synthesis.built import Prompting, StoredTree

EOS = 0
KEY = Key.of(0, "verified")
PROMPTING = Prompting(
    messages=lambda problem: [{"role": "user", "content": problem.question}],
    eos_token_id=EOS,
    tokenizer_fingerprint="by character",
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
