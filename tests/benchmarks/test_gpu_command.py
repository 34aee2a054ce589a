"""How `make gpu` begins and ends: with fakes in place of the card and of the parts."""

import importlib.util
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import psutil
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPT = BENCHMARKS / "gpu.py"
FORK = multiprocessing.get_context("fork")
H200 = "NVIDIA H200, 580.159.04, 143771 MiB"


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script as a module, under a name that the tests on a card do not have."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for name in ("HF_HUB_OFFLINE", "TOKENIZERS_PARALLELISM", "PYTORCH_NVML_BASED_CUDA_CHECK"):
        monkeypatch.setenv(name, os.environ.get(name, "1"))
    spec = importlib.util.spec_from_file_location("make_gpu", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "make_gpu", module)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def part(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], None]:
    """Puts a part that runs such lines, with ``figures`` at hand, in the place of another."""
    monkeypatch.setattr(gpu, "PARTS", dict(gpu.PARTS))
    monkeypatch.syspath_prepend(str(tmp_path))

    def put(name: str, lines: str) -> None:
        indented = "".join(f"    {line}\n" for line in lines.splitlines())
        (tmp_path / f"part_{name}.py").write_text(f"def run(figures, small):\n{indented}")
        importlib.invalidate_caches()
        kind = type(gpu.PARTS[name])
        gpu.PARTS[name] = kind("a part", 30, f"part_{name}:run", gpu.PARTS[name].fills)

    return put


def stored(folder: Path, name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return content


def fake_smi(folder: Path, text: str, code: int = 0) -> str:
    """A ``PATH`` that begins with an nvidia-smi which says so."""
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {code}\n")
    file.chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"


def refused(capsys: pytest.CaptureFixture[str], call: Callable[[], Any]) -> str:
    """The one line that a call ends the command with."""
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    ("text", "code"),
    [("NVIDIA-SMI has failed because it couldn't communicate", 9), ("No devices were found", 6),
     ("No devices were found", 0), ("", 0)],
)  # fmt: skip
def test_what_nvidia_smi_says_in_place_of_a_card_is_told(
    gpu: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    code: int,
) -> None:
    monkeypatch.setenv("PATH", fake_smi(tmp_path, text, code))
    assert (text or "nothing") in refused(capsys, gpu.cards)


@pytest.mark.parametrize(
    ("error", "told"),
    [(subprocess.TimeoutExpired("nvidia-smi", 20), "no answer within 20 s"),
     (FileNotFoundError(2, "No such file or directory"), "No such file")],
)  # fmt: skip
def test_an_nvidia_smi_that_hangs_or_is_missing_is_told(
    gpu: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception,
    told: str,
) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(gpu.subprocess, "run", run)
    assert told in refused(capsys, gpu.cards)


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT), "--output", str(folder / "out"), *words],
        capture_output=True, text=True, timeout=120, env=os.environ | environment,
    )  # fmt: skip


CPU_TORCH = """
from types import SimpleNamespace
__version__ = "2.13.0+cpu"
version = SimpleNamespace(cuda=None)
cuda = SimpleNamespace(is_available=lambda: False)
"""


def test_a_torch_that_cannot_use_the_card_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text(CPU_TORCH)
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    smi = fake_smi(tmp_path, H200)
    done = command(tmp_path, "--parts", "attention", PATH=smi, PYTHONPATH=path)
    assert done.returncode == 2, done.stderr
    [line] = done.stderr.splitlines()
    assert "torch.cuda.is_available() is False" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["torch", "butwait"])
def test_a_python_without_what_all_parts_need_is_told(tmp_path: Path, missing: str) -> None:
    (tmp_path / f"{missing}.py").write_text(f"raise ImportError('No module named {missing}')")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    done = command(tmp_path, "--rehearse", "--parts", "attention", PYTHONPATH=path)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert f"No module named {missing}" in line


def test_a_missing_wheel_fails_its_own_part_alone(
    gpu: ModuleType, part: Callable[[str, str], None], tmp_path: Path
) -> None:
    part("forks", "import no_such_wheel")
    part("engine", "figures.add(rows=3)")
    about = {"device": "cpu"}
    assert gpu.run_part(FORK, "forks", 20, True, tmp_path, about) == "failed"
    assert gpu.run_part(FORK, "engine", 20, True, tmp_path, about) == "done"
    assert "No module named 'no_such_wheel'" in stored(tmp_path, "forks")["figures"]["failed"]
    assert stored(tmp_path, "engine")["figures"] == {"seed": 0, "rows": 3}
    assert stored(tmp_path, "engine")["device"] == "cpu"


def test_a_part_that_dies_says_how(
    gpu: ModuleType, part: Callable[[str, str], None], tmp_path: Path
) -> None:
    part("forks", "import os\nfigures.add(rows=3)\nos.kill(os.getpid(), 9)")
    assert gpu.run_part(FORK, "forks", 20, True, tmp_path, {}) == "failed"
    figures = stored(tmp_path, "forks")["figures"]
    assert figures == {"seed": 0, "rows": 3, "failed": "its process ended with -9"}


def test_a_part_without_a_card_in_its_own_process_fails(
    gpu: ModuleType,
    part: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    part("forks", "figures.add(rows=3)")
    torch = ModuleType("torch")
    torch.cuda = SimpleNamespace(is_available=lambda: False)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", torch)
    assert gpu.run_part(FORK, "forks", 20, False, tmp_path, {}) == "failed"
    assert "rows" not in stored(tmp_path, "forks")["figures"]


def test_a_part_that_is_cut_before_it_leads_its_group_ends(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work(*_: Any) -> None:
        time.sleep(60)

    monkeypatch.setattr(gpu, "work", work)
    assert gpu.run_part(FORK, "forks", 0.3, True, tmp_path, {}) == "cut"
    assert multiprocessing.active_children() == []
    assert stored(tmp_path, "forks")["ended"] == "cut"


DRIVER = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.path.insert(0, sys.argv.pop(1))
import gpu, gpu_parts
gpu.PARTS["forks"] = gpu_parts.Part("a slow part", 60, "slow_part:run")
gpu.main()
"""
SLOW_PART = """
import os, subprocess, time
def run(figures, small):
    figures.add(processes=[os.getpid(), subprocess.Popen(["sleep", "60"]).pid])
    time.sleep(60)
"""


def alive(process: int) -> bool:
    try:
        return bool(psutil.Process(process).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(true: Callable[[], bool], seconds: float = 40) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("number", "code", "ended"),
    [(signal.SIGINT, 130, "cut"), (signal.SIGTERM, 143, "cut"), (signal.SIGKILL, -9, "running")],
)
def test_a_stopped_command_ends_its_part_and_keeps_what_it_has(
    tmp_path: Path, number: signal.Signals, code: int, ended: str
) -> None:
    (tmp_path / "slow_part.py").write_text(SLOW_PART)
    (tmp_path / "torch.py").write_text("")
    path, out = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}", tmp_path / "out"
    words = ["--rehearse", "--output", str(out), "--parts", "forks", "attention"]
    running = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(BENCHMARKS), *words],
        env=os.environ | {"PYTHONPATH": path},
    )
    try:
        file = out / "forks.json"
        until(lambda: file.exists() and "processes" in stored(out, "forks")["figures"])
        assert stored(out, "forks")["ended"] == "running"
        running.send_signal(number)
        assert running.wait(40) == code
    finally:
        running.kill()
        running.wait()
    content = stored(out, "forks")
    assert content["ended"] == ended
    until(lambda: not any(map(alive, content["figures"]["processes"])))
    assert not (out / "attention.json").exists()


def test_a_rehearsal_goes_elsewhere(
    gpu: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = gpu.folder_for(None, True, ["engine"])
    assert str(folder) in capsys.readouterr().out
    assert folder.is_dir()
    assert BENCHMARKS not in folder.parents
    folder.rmdir()
    assert gpu.folder_for(None, False, ["engine"]) == gpu.RESULTS
    (tmp_path / "engine.json").write_text('{"rehearsal": false}')
    assert "engine.json" in refused(capsys, lambda: gpu.folder_for(tmp_path, True, ["engine"]))
    assert gpu.folder_for(tmp_path, True, ["forks"]) == tmp_path


def test_the_first_card_that_the_user_lets_us_see_is_the_one(
    gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, kept in (("2,0", "2"), (" GPU-b, GPU-a", "GPU-b")):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        gpu.keep_one_card()
        assert os.environ["CUDA_VISIBLE_DEVICES"] == kept
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    gpu.keep_one_card()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "hides every card" in refused(capsys, gpu.keep_one_card)


def test_the_card_that_parts_see_is_named(
    gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = f"{H200}, GPU-a-1, 0 MiB\nNVIDIA L4, 580.1, 23034 MiB, GPU-b-2, 9000 MiB"
    monkeypatch.setenv("PATH", fake_smi(tmp_path, text))

    def touch(answer: Any) -> None:
        answer.send((("NVIDIA L4", "b-2", "22500 MiB"), "", False))

    monkeypatch.setattr(gpu, "touch_card", touch)
    start, card = gpu.reach_card(gpu.cards())
    assert start.get_start_method() == "fork"
    assert gpu.machine(card).items() >= {
        ("card", "NVIDIA L4"), ("driver", "580.1"), ("memory", "23034 MiB")
    }  # fmt: skip
    assert card.taken() == "9000 MiB of the card were taken before the first part"
    assert gpu.cards()[0].taken() is None


def test_a_card_that_is_not_idle_is_not_filled(
    gpu: ModuleType,
    part: Callable[[str, str], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    card = gpu.Card("NVIDIA L4", "580.1", "23034 MiB", "GPU-b-2", "9000 MiB")
    ran: list[str] = []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    monkeypatch.setattr(gpu, "cards", lambda: [card])
    monkeypatch.setattr(gpu, "load", lambda parts: None)
    monkeypatch.setattr(gpu, "reach_card", lambda listed: (FORK, card))
    monkeypatch.setattr(gpu, "heed_stops", lambda: None)
    monkeypatch.setattr(gpu, "run_part", lambda start, name, *_: ran.append(name) or "done")
    words = ["gpu.py", "--output", str(tmp_path), "--parts", "full_card", "forks"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as ended:
        gpu.main()
    assert not ended.value.code
    assert ran == ["forks"]
    content = stored(tmp_path, "full_card")
    assert content["ended"] == "skipped"
    assert "9000 MiB" in content["figures"]["skipped"]
    assert content["device"] == "cuda: NVIDIA L4"


def test_the_limits_fit_into_eight_minutes(gpu: ModuleType) -> None:
    assert sum(part.seconds for part in gpu.PARTS.values()) <= 480


def test_make_keeps_the_users_python_path(tmp_path: Path) -> None:
    tell = tmp_path / "python"
    tell.write_text('#!/bin/sh\nprintf "%s|%s" "$PYTHONPATH" "$*"\n')
    tell.chmod(0o755)
    words = ["make", "--silent", "gpu", "BIN=none", f"PYTHON={tell}", "REHEARSE=1"]
    root, said = BENCHMARKS.parent, []
    for given in ({"PYTHONPATH": "/mine"}, {"PYTHONPATH": ""}):
        done = subprocess.run(
            words, cwd=root, capture_output=True, text=True, timeout=60, env=os.environ | given
        )
        said.append(done.stdout)
    arguments = "benchmarks/gpu.py --rehearse"
    assert said == [f"{root}/src:/mine|{arguments}", f"{root}/src|{arguments}"]
