"""Examples are joined from pieces: stretches of a tree's paths, and inserted texts.

Pieces are joined by their token ids; a text is tokenised on its own. What a piece is made of goes
into the example's provenance, from which ``rebuild`` makes the same example again.
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, groupby
from typing import Any

import numpy as np

from butwait.problems.tokens import bare, following
from butwait.records import Example, Problem, Span, UserError
from butwait.synthesis.builder import Prompting, StoredTree
from butwait.synthesis.settings import InsertionSettings

THINK, THINK_END = "<think>", "</think>"
UNBOXED = "solutions without an answer to box"
"""Left out of the format ``think``, as a card calls them."""
BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_SENTENCE_END = re.compile(r"[.!?]\s+|\n")
_OPENED = re.compile(r"(?:\\\[|\$\$|\\begin\{[a-z]+\*?\})\s*$")


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """A stretch of a completion.

    Attributes:
        role: name of its span.
        token_ids: int32 (n,).
        text: theirs.
        loss: whether its tokens carry loss.
        source: what it was made of, as JSON.
        ended: whether its last token is EOS.
    """

    role: str
    token_ids: np.ndarray
    text: str
    loss: bool
    source: dict[str, Any]
    ended: bool = False

    def kept(self, tokens: int, characters: int) -> "Piece":
        """Its beginning of so many tokens, whose text has so many characters."""
        return replace(
            self,
            token_ids=self.token_ids[:tokens],
            text=self.text[:characters],
            source=self.source | {"tokens": tokens, "characters": characters},
            ended=self.ended and tokens == len(self.token_ids),
        )

    def open(self) -> "Piece":
        """The piece without EOS: something follows it."""
        return self.kept(len(self.token_ids) - 1, len(self.text)) if self.ended else self


def tree_piece(role: str, stored: StoredTree, nodes: Sequence[int], loss: bool) -> Piece:
    """Consecutive nodes of one path."""
    steps = [stored.tree.nodes[node] for node in nodes]
    return Piece(
        role,
        np.concatenate([step.token_ids for step in steps]),
        "".join(step.text for step in steps),
        loss,
        {
            "stage": stored.stage,
            "shard": stored.shard,
            "row": stored.row,
            "nodes": [int(node) for node in nodes],
        },
        ended=steps[-1].finish == "eos",
    )


def path_pieces(
    role: str, stored: StoredTree, nodes: Sequence[int], *, train_phrases: bool
) -> list[Piece]:
    """Nodes of one path, parted where the search itself inserted text: those are doubts."""
    inserted = [stored.tree.nodes[node].finish == "inserted" for node in nodes]
    return [
        tree_piece(
            "doubt" if phrase else role,
            stored,
            [node for node, _ in group],
            train_phrases or not phrase,
        )
        for phrase, group in groupby(zip(nodes, inserted, strict=True), key=lambda pair: pair[1])
    ]


def text_piece(
    role: str, text: str, prompting: Prompting, loss: bool, *, first: bool = False
) -> Piece:
    """A text that is no path's. ``first``: it begins the completion. Raises UserError where the
    tokenizer cannot write it."""
    encode = prompting.encode
    token_ids = np.array(encode(text) if first else following(encode, text), np.int32)
    back = prompting.decode(token_ids.tolist())
    if bare(text).strip() != bare(back).strip():
        raise UserError(
            f"the model's tokenizer cannot write {text[:80]!r} (it would become {back[:80]!r}); "
            "give phrases that it can write (`phrases`, `separator`), or take another model"
        )
    return Piece(role, token_ids, text, loss, {"text": text})


def phrase_piece(
    phrase: str, before: str, settings: InsertionSettings, prompting: Prompting
) -> Piece:
    """A doubt after the text ``before``, with the separator around it."""
    lead = "" if before.endswith(settings.separator) else settings.separator
    text = lead + phrase + settings.separator
    return text_piece("doubt", text, prompting, settings.train_phrases)


def thinking(pieces: Sequence[Piece], answer: str | None, prompting: Prompting) -> list[Piece]:
    """The pieces in ``<think>...</think>``, and the final answer in a box after them.

    Raises UserError for text that holds such tags itself, and where there is no answer.
    """
    if not answer:
        raise UserError(
            "format: think ends in the answer, and no answer can be read in a solution that was "
            "taken; use format: plain, or a builder that leaves such solutions out"
        )
    if any(THINK in piece.text or THINK_END in piece.text for piece in pieces):
        raise UserError(
            "the solutions hold <think> tags of their own; use format: plain, which keeps them"
        )
    final = f"\n{THINK_END}\n\n\\boxed{{{answer}}}"
    return [
        text_piece("solution", f"{THINK}\n", prompting, True, first=True),
        *(piece.open() for piece in pieces),
        text_piece("answer", final, prompting, True),
    ]


def assemble(
    pieces: Sequence[Piece],
    problem: Problem,
    prompt_ids: np.ndarray,
    prompting: Prompting,
    provenance: Mapping[str, Any],
) -> Example:
    """The example of these pieces. EOS is left out inside and stands once at the end.

    Args:
        pieces: in order; each becomes a span.
        problem: what is solved.
        prompt_ids: int32 (p,).
        prompting: of the model whose tokens these are.
        provenance: what is known of the example beside its pieces.
    """
    *inner, last = pieces
    if not last.ended:
        ids = np.append(last.token_ids, np.int32(prompting.eos_token_id))
        last = replace(last, token_ids=ids)
    whole = [*(piece.open() for piece in inner), last]
    lengths = [len(piece.token_ids) for piece in whole]
    ends = list(accumulate(lengths))
    spans = zip(whole, [0, *ends], ends, strict=False)
    return Example(
        problem_id=problem.id,
        prompt_ids=prompt_ids,
        completion_ids=np.concatenate([piece.token_ids for piece in whole]).astype(np.int32),
        loss_mask=np.repeat([piece.loss for piece in whole], lengths),
        spans=tuple(Span(piece.role, start, end, piece.text) for piece, start, end in spans),
        prompt=prompting.messages(problem),
        text="".join(piece.text for piece in whole),
        tokenizer_fingerprint=prompting.tokenizer_fingerprint,
        provenance={
            **provenance,
            "pieces": [p.source | {"role": p.role, "loss": p.loss} for p in whole],
        },
    )


def before_box(piece: Piece, prompting: Prompting, context: Piece | None = None) -> Piece | None:
    """The piece up to the sentence (or line) that its first box stands in, cut between tokens.

    A path of the trained model ends at its first closed ``\\boxed``: a mistake that keeps its box
    would teach the model to answer before it doubts.

    Args:
        piece: a stretch of a path.
        prompting: its tokenizer.
        context: the path before the piece; None where it begins the path.

    Returns:
        The piece itself where it has no box; None where nothing would be left.
    """
    box = BOX.search(piece.text)
    if box is None:
        return piece
    room = _last_sentence_end(piece.text, box.start())
    while opened := _OPENED.search(piece.text, 0, room):  # the formula that the box stands in
        room = _last_sentence_end(piece.text, opened.start())
    tokens, characters = _fit(piece, room, prompting, context)
    return piece.kept(tokens, characters) if piece.text[:characters].strip() else None


def _last_sentence_end(text: str, before: int) -> int:
    ends = [end.end() for end in _SENTENCE_END.finditer(text, 0, before)]
    return ends[-1] if ends else 0


def _fit(piece: Piece, room: int, prompting: Prompting, context: Piece | None) -> tuple[int, int]:
    """(tokens, characters): the most tokens of the piece whose text is whole and within ``room``
    characters. Found by bisection, as decoding is the only way from tokens to characters."""
    ids, before = ([], "") if context is None else (context.token_ids.tolist(), context.text)
    own, text = piece.token_ids.tolist(), before + piece.text

    def decoded(tokens: int) -> str:
        return prompting.decode([*ids, *own[:tokens]])

    low, high = 0, len(own)
    while low < high:
        middle = (low + high + 1) // 2
        if len(decoded(middle)) <= len(before) + room:
            low = middle
        else:
            high = middle - 1
    while low and not text.startswith(decoded(low)):  # part of a character
        low -= 1
    return low, len(decoded(low)) - len(before) if low else 0


def rebuild(
    example: Example,
    problem: Problem,
    tree_at: Callable[[str, str, int], StoredTree],
    prompting: Prompting,
) -> Example:
    """The example again, from its provenance alone and the trees it names.

    Args:
        example: only its ``provenance`` is read.
        problem: its problem.
        tree_at: the tree of (stage, shard, row).
        prompting: as it was built with.
    """
    provenance = {k: v for k, v in example.provenance.items() if k != "pieces"}
    pieces = list(_rebuilt(example.provenance["pieces"], tree_at, prompting))
    if "shard" in provenance:
        place = (provenance["stage"], provenance["shard"], provenance["row"])
        prompt_ids = tree_at(*place).tree.prompt_ids
    else:
        prompt_ids = prompting.prompt_ids(problem)
    return assemble(pieces, problem, prompt_ids, prompting, provenance)


def is_rebuilt(example: Example, *how: Any) -> bool:
    """Whether ``rebuild`` gives the example again, token by token; the other arguments are its.
    True where the provenance names no pieces: a builder of one's own may do without."""
    if "pieces" not in example.provenance:
        return True
    again = rebuild(example, *how)
    return np.array_equal(again.completion_ids, example.completion_ids) and np.array_equal(
        again.loss_mask, example.loss_mask
    )


def _rebuilt(
    sources: Iterable[Mapping[str, Any]],
    tree_at: Callable[[str, str, int], StoredTree],
    prompting: Prompting,
) -> Iterable[Piece]:
    for i, source in enumerate(sources):
        if "nodes" not in source:
            said = source["role"], source["text"], prompting, source["loss"]
            yield text_piece(*said, first=i == 0)
            continue
        stored = tree_at(source["stage"], source["shard"], source["row"])
        piece = tree_piece(source["role"], stored, source["nodes"], source["loss"])
        cut = "tokens" in source
        yield piece.kept(source["tokens"], source["characters"]) if cut else piece
