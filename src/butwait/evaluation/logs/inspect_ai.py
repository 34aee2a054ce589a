"""inspect's logs, ``.eval`` and ``.json`` (schema version 2, 0.3.285)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from butwait.evaluation.logs.archives import Archive
from butwait.evaluation.logs.records import (
    Log,
    LoggedAttempt,
    LoggedQuestion,
    as_text,
    held,
    number,
)
from butwait.problems.answers import read_gold
from butwait.records import UserError
from butwait.running.json_lines import decoded, parsed, reason

Json = dict[str, Any]
SCHEMA = 2
_CUT = ("max_tokens", "model_length")


def read_inspect(path: Path) -> Log:
    """The log. A sample that failed is an attempt without a text.

    Raises UserError for a log that is damaged, did not finish, holds no samples, or is of another
    schema.
    """
    with path.open("rb") as file:
        packed = path.suffix == ".eval" or file.read(2) == b"PK"
    if not packed:
        content = _object(path, path.read_bytes(), str(path))
        _check(path, content)
        return _log(path, content, content.get("samples") or ())
    with Archive(path) as archive:
        names = archive.names
        if "header.json" not in names:
            what = "the evaluation did not finish" if "_journal/start.json" in names else "no log"
            raise UserError(
                f"{path} holds no header.json ({what}); finish it with `inspect eval-retry`"
            )
        header = _object(path, archive.read("header.json"), f"{path}, header.json")
        _check(path, header)
        members = [n for n in names if n.startswith("samples/") and n.endswith(".json")]
        samples = (_object(path, archive.read(n), f"{path}, {n}") for n in members)
        return _log(path, header, samples)


def _object(path: Path, data: bytes, where: str) -> Json:
    try:
        value = parsed(decoded(path, data))
    except ValueError as error:
        raise UserError(f"{where} is no JSON ({reason(error)}); copy the log again") from error
    if not isinstance(value, dict):
        raise UserError(f"{where} is no JSON object")
    return value


def _check(path: Path, header: Json) -> None:
    version = header.get("version")
    if version != SCHEMA:
        raise UserError(
            f"{path} has the log schema {version!r}, and {SCHEMA} is read here; `inspect log "
            f"convert {path} --to eval --output-dir DIR` of a current inspect writes it"
        )
    status = held(header, "status", str, str(path))
    if status != "success":
        error = header.get("error")
        said = str(error.get("message") if isinstance(error, dict) else "").partition("\n")[0]
        told = f"{status}: {said[:120]}" if said else status
        raise UserError(
            f"{path}: the evaluation did not finish ({told}); finish it with `inspect eval-retry "
            f"{path}`"
        )
    if header.get("invalidated"):
        raise UserError(f"{path}: samples of this log were declared invalid; run it again")


def _log(path: Path, header: Json, samples: Iterable[Json]) -> Log:
    spec = held(header, "eval", dict, str(path))
    found: dict[str, dict[int, tuple[Json, LoggedAttempt]]] = {}
    scores: dict[str, dict[str, dict[int, float | None]]] = {}
    for sample in samples:
        where = f"{path}, sample {sample.get('id')!r}"
        name = as_text(sample.get("id"), where)
        epoch = held(sample, "epoch", int, where)
        kept = {key: sample.get(key) for key in ("input", "target", "attachments")}
        found.setdefault(name, {})[epoch] = kept, _attempt(sample, where)
        for scorer, value in _scores(sample):
            scores.setdefault(scorer, {}).setdefault(name, {})[epoch] = value
    if not found:
        raise UserError(
            f"{path} holds no samples, so there is nothing to grade; run the evaluation with "
            "log_samples on"
        )
    questions = []
    for name in _order(spec, found):
        epochs = sorted(found[name])
        if epochs != list(range(1, len(epochs) + 1)):
            raise UserError(
                f"{path}: the sample {name!r} has the epochs {epochs}: some are missing; finish "
                f"the evaluation with `inspect eval-retry {path}`"
            )
        first, where = found[name][1][0], f"{path}, sample {name!r}"
        attempts = tuple(found[name][epoch][1] for epoch in epochs)
        questions.append(LoggedQuestion(name, _input(first, where), _golds(first, where), attempts))
    vectors = {
        scorer: {
            name: tuple(epochs.get(epoch) for epoch in sorted(found[name]))
            for name, epochs in of_question.items()
        }
        for scorer, of_question in scores.items()
    }
    task, model = str(spec.get("task") or path.stem), str(spec.get("model") or path.stem)
    return Log(path, "inspect", task, model, tuple(questions), vectors)


def _order(spec: Json, found: dict[str, Any]) -> list[str]:
    """The questions in the order of the data set, as far as the log tells."""
    dataset = spec.get("dataset")
    ids = dataset.get("sample_ids") if isinstance(dataset, dict) else None
    known = [str(name) for name in ids or () if str(name) in found]
    return list(dict.fromkeys([*known, *found]))


def _attempt(sample: Json, where: str) -> LoggedAttempt:
    output = held(sample, "output", dict, where)
    choices = output.get("choices") or []
    if sample.get("error") is not None:
        return LoggedAttempt(None)
    choice = choices[0] if choices and isinstance(choices[0], dict) else {}
    text = output.get("completion")
    if not isinstance(text, str):
        text = _parts((choice.get("message") or {}).get("content"))
    if text is None:
        return LoggedAttempt(None)
    usage = output.get("usage")
    tokens = usage.get("output_tokens") if isinstance(usage, dict) else None
    return LoggedAttempt(
        as_text(_attached(text, sample), where),
        cut=choice.get("stop_reason") in _CUT or sample.get("limit") is not None,
        tokens=tokens if isinstance(tokens, int) else None,
    )


def _parts(content: Any) -> str | None:
    """The text of a message, without its reasoning."""
    if isinstance(content, list):
        texts = [p.get("text") for p in content if isinstance(p, dict) and p.get("type") == "text"]
        return "".join(text for text in texts if isinstance(text, str)) if texts else None
    return content if isinstance(content, str) else None


def _input(sample: Json, where: str) -> str:
    """The question; of a conversation, what the user said."""
    asked = sample["input"]
    if isinstance(asked, list):
        said = [m for m in asked if isinstance(m, dict) and m.get("role") == "user"]
        asked = "\n\n".join(_parts(m.get("content")) or "" for m in said) or None
    return as_text(_attached(asked, sample), f"{where}, input")


def _attached(text: Any, sample: Json) -> Any:
    """A long text stands among the attachments, by its hash."""
    if isinstance(text, str) and text.startswith("attachment://"):
        return (sample.get("attachments") or {}).get(text.removeprefix("attachment://"), text)
    return text


def _golds(sample: Json, where: str) -> tuple[str, ...]:
    target = sample["target"]
    golds = target if isinstance(target, list) else [target]
    return tuple(read_gold(as_text(gold, f"{where}, target")) for gold in golds)


def _scores(sample: Json) -> Iterator[tuple[str, float | None]]:
    """(scorer, its number); of a scorer with several numbers, ``scorer.name`` each."""
    for scorer, score in (sample.get("scores") or {}).items():
        value = score.get("value") if isinstance(score, dict) else None
        if isinstance(value, dict):
            yield from ((f"{scorer}.{name}", number(own)) for name, own in value.items())
        else:
            yield scorer, number(value)
