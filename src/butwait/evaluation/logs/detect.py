"""Which package wrote a file, by its content."""

from collections.abc import Callable
from pathlib import Path

from butwait.evaluation.logs.inspect_ai import read_inspect
from butwait.evaluation.logs.lighteval import read_lighteval
from butwait.evaluation.logs.lm_eval import read_lm_eval
from butwait.evaluation.logs.records import Log, listed
from butwait.records import UserError
from butwait.running.json_lines import parsed

PATTERNS = ("*.eval", "samples_*.jsonl", "details_*.parquet")
READ = (
    "samples_*.jsonl of lm-eval (--log_samples), details_*.parquet of lighteval (save_details), "
    ".eval or .json of inspect"
)
_LOOKED_AT = 1 << 20


def read_log(path: Path) -> Log:
    """The log in a file, or the only one in a folder.

    Raises UserError where there is none or more than one, or it cannot be read.
    """
    file = path
    if path.is_dir():
        found = sorted(file for pattern in PATTERNS for file in path.rglob(pattern))
        # A run's folder is full of .json, of which none is a log's by its name.
        found = found or [file for file in sorted(path.rglob("*.json")) if _is_inspects(file)]
        if not found:
            raise UserError(f"{path} holds no log of an evaluation ({READ})")
        if len(found) > 1:
            names = listed([file.relative_to(path) for file in found])
            raise UserError(f"{path} holds several logs ({names}); name one of them")
        file = found[0]
    try:
        return _reader(file, _start(file))(file)
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error


def _start(file: Path) -> bytes:
    with file.open("rb") as handle:
        return handle.read(_LOOKED_AT)


def _is_inspects(file: Path) -> bool:
    """Whether a .json is a log of inspect; what cannot be read is none."""
    try:
        return file.is_file() and _reader(file, _start(file)) is read_inspect
    except (UserError, OSError):
        return False


def _reader(path: Path, start: bytes) -> Callable[[Path], Log]:
    if start.startswith(b"PAR1"):
        return read_lighteval
    if start.startswith(b"PK") or path.suffix == ".eval":
        return read_inspect
    line = start.lstrip(b"\xef\xbb\xbf \t\r\n").partition(b"\n")[0]
    if line.startswith(b"{"):
        row = _row(line)
        if "doc_id" in row or path.suffix == ".jsonl":
            return read_lm_eval
        if b'"eval"' in start and b'"version"' in start:
            return read_inspect
        if any(mark in start for mark in (b'"lm_eval_version"', b'"config_general"', b'"results"')):
            raise UserError(
                f"{path} holds the results of an evaluation and no single answer; give its log of "
                f"samples ({READ})"
            )
    raise UserError(f"{path} is no log of an evaluation that is read here ({READ})")


def _row(line: bytes) -> dict[str, object]:
    try:
        row = parsed(line.decode("utf-8", "replace"))
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}
