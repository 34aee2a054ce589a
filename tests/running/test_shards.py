import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from butwait.records import UserError
from butwait.running.shards import SetAsideError, ShardFormat, map_shards, set_aside

LINES = ShardFormat[int](
    write=lambda path, results: path.write_text(json.dumps(list(results))) and None,
    read=lambda path: json.loads(path.read_text()),
    suffix=".json",
)

KILLABLE = """
import asyncio, json, sys
from pathlib import Path
from butwait.running.shards import ShardFormat, map_shards
folder, log = Path(sys.argv[1]), open(sys.argv[2], "a", buffering=1)
format = ShardFormat(lambda p, r: p.write_text(json.dumps(list(r))) and None,
                     lambda p: json.loads(p.read_text()), ".json")
async def work(i):
    await asyncio.sleep(0.001 * (1 + (i * 7) % 5))
    return i * i
def finished(result):
    print(result, file=log)
asyncio.run(map_shards(range(60), work, format, folder, shard_size=8, concurrency=3,
                       on_result=finished))
"""


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def run(folder: Path, n: int, work, **options) -> list[Path]:
    settings = {"shard_size": 4, "concurrency": 3} | options
    return asyncio.run(map_shards(range(n), work, LINES, folder, **settings))


def test_results_stand_in_item_order_whatever_the_order_they_finish_in(tmp_path: Path) -> None:
    async def work(i: int) -> int:
        await asyncio.sleep(0.002 * (10 - i))
        return i * i

    paths = run(tmp_path, 10, work)

    assert [p.name for p in paths] == [
        "shard-00000.json",
        "shard-00001.json",
        "shard-00002.json",
    ]
    assert [json.loads(p.read_text()) for p in paths] == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]
    assert names(tmp_path) == [".shards.json", *(p.name for p in paths)]


def test_at_most_concurrency_items_run_at_a_time(tmp_path: Path) -> None:
    running, most = 0, 0

    async def work(i: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return i

    run(tmp_path, 20, work, concurrency=3)
    assert most == 3


def test_a_failure_keeps_finished_items_and_they_are_not_computed_again(tmp_path: Path) -> None:
    calls: list[int] = []

    async def failing(i: int) -> int:
        await asyncio.sleep(0.001)
        if i == 6:
            raise UserError("the server is gone")
        calls.append(i)
        return i

    with pytest.raises(UserError, match="the server is gone"):
        run(tmp_path, 10, failing, concurrency=1)
    assert calls == [0, 1, 2, 3, 4, 5]

    async def working(i: int) -> int:
        calls.append(i)
        return i

    seen: list[int] = []
    run(tmp_path, 10, working, concurrency=1, on_result=seen.append)
    assert calls == list(range(10))
    assert sorted(seen) == list(range(10))


def test_kills_leave_the_bytes_of_an_uninterrupted_run_and_repeat_nothing(tmp_path: Path) -> None:
    script = tmp_path / "killable.py"
    script.write_text(KILLABLE)
    folder = tmp_path / "shards"
    environment = os.environ | {"PYTHONPATH": "src"}
    finished: set[str] = set()
    for attempt in range(40):
        log = tmp_path / f"log-{attempt}"
        log.touch()
        process = subprocess.Popen([sys.executable, script, folder, log], env=environment)
        while process.poll() is None and len(log.read_text().split()) < len(finished) + 7:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        killed = process.wait() != 0
        seen = log.read_text().split()
        # What an earlier session finished is read back first thing, before anything new.
        assert finished <= set(seen) or len(seen) < len(finished)
        finished |= set(seen)
        if not killed:
            break
    assert not killed
    assert attempt >= 3

    async def work(i: int) -> int:
        return i * i

    clean = asyncio.run(
        map_shards(range(60), work, LINES, tmp_path / "clean", shard_size=8, concurrency=60)
    )
    for path in clean:
        assert (folder / path.name).read_bytes() == path.read_bytes()
    assert names(folder) == [".shards.json", *(p.name for p in clean)]


@pytest.mark.parametrize("sizes", [(8, 2), (8, 3), (3, 8), (4, 100), (100, 4)])
def test_a_folder_keeps_the_shard_size_that_it_was_begun_with(
    tmp_path: Path, sizes: tuple[int, int]
) -> None:
    """Killed after every number of finished items, in an order in which the short last shard is
    the first one that is whole."""

    async def square(i: int) -> int:
        return i * i

    clean = run(tmp_path / "clean", 10, square, shard_size=sizes[0])
    for finished in range(10):
        folder, calls = tmp_path / str(finished), []

        async def work(i: int) -> int:
            await asyncio.sleep(0.001 * (10 - i))
            if len(calls) == finished:  # noqa: B023
                raise UserError("killed")
            calls.append(i)  # noqa: B023
            return i * i

        with pytest.raises(UserError, match="killed"):
            run(folder, 10, work, shard_size=sizes[0], concurrency=10)
        again: list[int] = []

        async def rest(i: int) -> int:
            again.append(i)  # noqa: B023
            return i * i

        seen: list[int] = []
        paths = run(folder, 10, rest, shard_size=sizes[1], on_result=seen.append)
        assert [p.read_bytes() for p in paths] == [p.read_bytes() for p in clean]
        assert sorted(calls + again) == list(range(10))
        assert sorted(seen) == [i * i for i in range(10)]
        assert names(folder) == [".shards.json", *(p.name for p in clean)]


@pytest.mark.parametrize("gone", [(0,), (1,), (2,), (0, 1), (1, 2), (0, 1, 2)])
def test_deleted_shards_are_made_again_in_the_size_of_the_others(
    tmp_path: Path, gone: tuple[int, ...]
) -> None:
    calls: list[int] = []

    async def work(i: int) -> int:
        calls.append(i)
        return i

    paths = run(tmp_path, 10, work, shard_size=4)
    whole = [path.read_bytes() for path in paths]
    for size in (4, 3, 2, 100):
        calls.clear()
        for number in gone:
            paths[number].unlink()
        assert run(tmp_path, 10, work, shard_size=size) == paths
        assert [path.read_bytes() for path in paths] == whole
        assert sorted(calls) == [i for n in gone for i in range(4 * n, min(4 * n + 4, 10))]


def test_a_copy_without_the_hidden_note_is_used_where_it_is_whole(tmp_path: Path) -> None:
    async def work(i: int) -> int:
        return i

    paths = run(tmp_path, 10, work, shard_size=4)
    (tmp_path / ".shards.json").unlink()
    assert run(tmp_path, 10, work, shard_size=4) == paths
    (tmp_path / ".shards.json").unlink()
    paths[0].unlink()
    with pytest.raises(UserError, match="not those of 10 items"):
        run(tmp_path, 10, work, shard_size=8)


def test_shards_of_another_number_of_items_are_refused(tmp_path: Path) -> None:
    async def work(i: int) -> int:
        return i

    run(tmp_path, 10, work, shard_size=4)
    with pytest.raises(UserError, match="not those of 5 items"):
        run(tmp_path, 5, work, shard_size=4)


async def but_two(i: int) -> int:
    await asyncio.sleep(0)
    if i in (5, 6):
        raise SetAsideError(f"item {i}", "out of memory")
    return i * i


def test_items_that_are_set_aside_hold_up_no_other(tmp_path: Path) -> None:
    with pytest.raises(UserError) as refused:
        run(tmp_path, 10, but_two)
    assert str(refused.value) == (
        "not done, for each of them ended two workers: item 5, item 6 (out of memory); all others "
        "are stored: run the same command again to try them once more, or set "
        "workers.skip_failed: true to go on without them"
    )
    assert names(tmp_path) == [".shards.json", ".spool", "shard-00000.json", "shard-00002.json"]
    assert names(tmp_path / ".spool") == ["00000004.json", "00000007.json"]
    asked = list[int]()

    async def well(i: int) -> int:
        asked.append(i)
        return i * i

    paths = run(tmp_path, 10, well)
    assert asked == [5, 6]
    assert [json.loads(p.read_text()) for p in paths] == [[0, 1, 4, 9], [16, 25, 36, 49], [64, 81]]


@pytest.mark.parametrize(("given", "stored"), [(None, [16, 49]), (-1, [16, -1, -1, 49])])
def test_a_map_may_be_complete_without_them(
    tmp_path: Path, given: int | None, stored: list[int]
) -> None:
    seen = list[int]()
    paths = run(tmp_path, 10, but_two, instead=lambda i: given, on_result=seen.append)
    assert json.loads(paths[1].read_text()) == stored
    assert len(seen) == 8  # what was done
    told = {"5": ["item 5", "out of memory"], "6": ["item 6", "out of memory"]}
    assert set_aside(tmp_path) == told

    async def never(i: int) -> int:
        raise AssertionError(f"{i} was stored, or set aside")

    assert run(tmp_path, 10, never, instead=lambda i: given) == paths


@pytest.mark.parametrize("given", [None, -1])
@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_those_that_were_set_aside_are_tried_again_where_they_are_wanted(
    tmp_path: Path, given: int | None, size: int
) -> None:
    run(tmp_path, 10, but_two, shard_size=size, instead=lambda i: given)
    asked, seen = list[int](), list[int]()

    async def well(i: int) -> int:
        if not asked:  # a kill in between loses nothing
            asked.append(i)
            raise UserError("killed")
        asked.append(i)
        return i * i

    with pytest.raises(UserError, match="killed"):
        run(tmp_path, 10, well)
    paths = run(tmp_path, 10, well, on_result=seen.append)
    assert sorted(set(asked)) == [5, 6]
    assert [i for path in paths for i in json.loads(path.read_text())] == [i * i for i in range(10)]
    assert sorted(seen) == [i * i for i in range(10)]
    assert set_aside(tmp_path) == {}
    assert names(tmp_path) == [".shards.json", *(path.name for path in paths)]


def test_what_a_killed_session_had_set_aside_may_be_done_after_all(tmp_path: Path) -> None:
    """It had noted it, and had not written the shard."""
    run(tmp_path, 10, but_two, instead=lambda i: None)[1].unlink()

    async def well(i: int) -> int:
        return i * i

    paths = run(tmp_path, 10, well, instead=lambda i: None)
    assert json.loads(paths[1].read_text()) == [16, 25, 36, 49]
    assert set_aside(tmp_path) == {}


def test_a_shard_of_which_nothing_is_left_is_no_file(tmp_path: Path) -> None:
    paths = run(tmp_path, 10, but_two, shard_size=1, instead=lambda i: None)
    assert [path.name[6:11] for path in paths] == [f"{i:05d}" for i in range(10) if i not in (5, 6)]

    async def never(i: int) -> int:
        raise AssertionError(f"{i} was stored, or set aside")

    assert run(tmp_path, 10, never, shard_size=1, instead=lambda i: None) == paths


@pytest.mark.parametrize("given", [None, -1])
@pytest.mark.parametrize("skips", [True, False])
def test_a_map_of_which_nothing_is_left_is_not_complete(
    tmp_path: Path, given: int | None, skips: bool
) -> None:
    async def none(i: int) -> int:
        raise SetAsideError(f"item {i}", "gone")

    instead = lambda i: given  # noqa: E731
    with pytest.raises(UserError) as refused:
        run(tmp_path, 2, none, instead=instead)
    assert str(refused.value) == (
        "nothing is left without those that ended their workers: item 0, item 1 (gone); mend what "
        "ends them (memory, for example) and run the same command again: it tries them once more"
    )

    async def well(i: int) -> int:
        return i * i

    (path,) = run(tmp_path, 2, well, instead=instead if skips else None)
    assert json.loads(path.read_text()) == [0, 1]
    assert set_aside(tmp_path) == {}
