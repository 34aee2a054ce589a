"""Which questions every generation asks."""

import numpy as np

from butwait.records import Key, UserError


def question_order(questions: int, size: int, generations: int, key: Key) -> np.ndarray:
    """int64 (generations, size): indices of questions.

    They come in passes over all questions, each in a random order of its own. What is left at the
    end of a pass and fills no generation has its chance in the next: no generation asks a question
    twice. The order of the whole training is fixed beforehand, so that a resume goes on in it (the
    order of TRL's sampler begins anew on a resume, whichever pass it is in).

    Args:
        questions: how many there are.
        size: questions of one generation.
        generations: of the whole training.
        key: of the order.

    Raises:
        UserError: there are not enough questions for one generation.
    """
    if questions < size:
        raise UserError(
            f"a generation asks {size} questions and there are {questions} to train on: lower "
            "`questions`, widen `subset`, or give more problems"
        )
    per_pass = questions // size
    passes = [
        key.derive(i).generator().permutation(questions)[: per_pass * size]
        for i in range(-(-generations // per_pass))
    ]
    return np.concatenate(passes).reshape(-1, size)[:generations]
