"""Trees on disk come back exactly, and damage is found."""

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from search_toys import RULE, search

from butwait.records import Counts, Grade, Key, Node, Population, Problem, SearchTree, UserError
from butwait.search.outline import outline
from butwait.search.rows import FINISHES, SCHEMA
from butwait.search.samplers.particle_filter import ParticleFilterSettings
from butwait.search.storage import (
    FORMAT_KEY,
    problem_ids,
    read_outlines,
    read_shard,
    read_tree,
    read_trees,
    write_shard,
)


def same(a: object, b: object) -> bool:
    """Equal to the bit, types of arrays included."""
    if isinstance(a, np.ndarray):
        return isinstance(b, np.ndarray) and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    if dataclasses.is_dataclass(a):
        names = [field.name for field in dataclasses.fields(a)]
        return type(a) is type(b) and all(same(getattr(a, n), getattr(b, n)) for n in names)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, float) and np.isnan(a):
        return np.isnan(b)
    return a == b


def int32s(n: int | st.SearchStrategy, low: int = 0) -> st.SearchStrategy:
    return hnp.arrays(np.int32, n, elements=st.integers(low, 2**31 - 1))


def floats(n: int) -> st.SearchStrategy:
    return hnp.arrays(np.float64, n, elements=st.floats(-1e300, 1e300) | st.just(-np.inf))


@st.composite
def nodes(draw: st.DrawFn, parent: int) -> Node:
    size = draw(st.integers(0, 4))
    return Node(
        parent,
        draw(int32s(size)),
        draw(st.text(max_size=6)),
        draw(hnp.arrays(np.float32, size, elements=st.floats(-50, 0, width=32))),
        draw(st.sampled_from(FINISHES)),
        draw(st.floats(-12, 12) | st.just(np.nan)),
        *(draw(st.integers(0, 2**31 - 1)) for _ in range(3)),
    )


@st.composite
def trees(draw: st.DrawFn) -> SearchTree:
    size, particles = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    parents = [-1] + [draw(st.integers(0, i)) for i in range(size - 1)]
    statuses = st.sampled_from(["correct", "wrong", "no_answer", "truncated", "ungradable"])
    grades = st.builds(Grade, st.none() | st.text(max_size=4), statuses)
    slots = int32s(particles)
    return SearchTree(
        problem_id=draw(st.text(min_size=1, max_size=8)),
        sampler=draw(st.sampled_from(["particle_filter", "best_of_n"])),
        prompt_ids=draw(int32s(st.integers(0, 5))),
        nodes=[draw(nodes(parent)) for parent in parents],
        populations=draw(
            st.lists(
                st.builds(Population, slots, slots, floats(particles), st.booleans()), max_size=3
            )
        ),
        leaves=draw(slots),
        log_weights=draw(floats(particles)),
        log_evidence=draw(st.none() | st.floats(-1e9, 1e9) | st.just(-np.inf)),
        outcome=draw(st.sampled_from(["complete", "extinct"])),
        counts=draw(st.builds(Counts, *[st.integers(0, 2**62)] * 3)),
        grades=draw(st.dictionaries(st.integers(0, size - 1), grades, max_size=3)),
    )


@settings(max_examples=40)
@given(st.lists(trees(), min_size=1, max_size=3, unique_by=lambda tree: tree.problem_id))
def test_any_tree_comes_back_exactly(tmp_path_factory, written: list[SearchTree]) -> None:
    path = tmp_path_factory.mktemp("trees") / "shard-00000.parquet"
    write_shard(path, written)
    assert same(read_shard(path), written)
    assert same(read_tree(path, written[-1].problem_id), written[-1])


def searched(*names: str) -> list[SearchTree]:
    chosen = ParticleFilterSettings(particles=8, ess_threshold=0.9, step=RULE)
    grown = [search(chosen, Key.of(1, name), problem=Problem(name, "?", None)) for name in names]
    return [dataclasses.replace(tree, timings=None) for tree in grown]


def test_every_population_is_rebuilt_from_disk(tmp_path: Path) -> None:
    (tree,) = searched("p")
    write_shard(tmp_path / "shard-00000.parquet", [tree])
    back = read_tree(tmp_path, "p")
    assert same(back, tree)
    assert any(population.resampled for population in back.populations)
    dead = set(range(len(tree.nodes)))
    for step, population in enumerate(back.populations):
        texts = [back.path_text(node) for node in population.nodes.tolist()]
        assert texts == [tree.path_text(n) for n in tree.populations[step].nodes.tolist()]
        dead -= set(population.nodes.tolist())
    assert dead == {0}, "every node stands in some population, dead particles included"


def test_a_folder_of_shards(tmp_path: Path) -> None:
    first, second = searched("a", "b"), searched("c")
    write_shard(tmp_path / "shard-00001.parquet", second)
    write_shard(tmp_path / "shard-00000.parquet", first)
    assert list(problem_ids(tmp_path)) == ["a", "b", "c"]
    assert problem_ids(tmp_path)["c"] == tmp_path / "shard-00001.parquet"
    assert same(read_tree(tmp_path, "b"), first[1])
    assert same(list(read_trees(tmp_path)), [*first, *second])


def test_identical_trees_make_identical_bytes(tmp_path: Path) -> None:
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    write_shard(one, searched("a", "b"))
    write_shard(two, searched("a", "b"))
    assert one.read_bytes() == two.read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one.parquet", "two.parquet"]


def test_the_schema_version_stands_in_the_file(tmp_path: Path) -> None:
    write_shard(tmp_path / "shard-00000.parquet", searched("a", "b"))
    file = pq.ParquetFile(tmp_path / "shard-00000.parquet")
    assert file.schema_arrow.metadata[FORMAT_KEY] == b"2"
    assert file.num_row_groups == 2


def test_scores_are_kept_where_there_are_any(tmp_path: Path) -> None:
    one, other = searched("one", "other")
    bare, scored = tmp_path / "shard-00000.parquet", tmp_path / "shard-00001.parquet"
    write_shard(bare, [one, other])
    leaf = int(one.leaves[0])
    one.grades = {leaf: Grade("3", "wrong", 0.25)}
    write_shard(scored, [one, other])
    assert pq.read_schema(bare).names == SCHEMA.names
    assert pq.read_schema(scored).names == [*SCHEMA.names, "grade_scores"]
    assert read_shard(scored)[0].grades == one.grades
    assert same(read_shard(scored), [one, other])
    assert [outline.problem_id for outline in read_outlines(tmp_path)] == ["one", "other"] * 2


def test_finish_codes_are_those_on_disk() -> None:
    assert FINISHES == ("step", "step_limit", "eos", "box", "length", "inserted")


def test_outlines_are_those_of_the_trees(tmp_path: Path) -> None:
    written = searched("a", "b")
    write_shard(tmp_path / "shard-00000.parquet", written)
    assert same(list(read_outlines(tmp_path)), [outline(tree) for tree in written])


def test_an_id_too_long_for_the_footer_is_found(tmp_path: Path) -> None:
    written = searched("a" * 9000, "b")
    write_shard(tmp_path / "shard-00000.parquet", written)
    assert list(problem_ids(tmp_path)) == ["a" * 9000, "b"]
    assert same(read_tree(tmp_path, "b"), written[1])


def test_inserted_tokens_come_back_with_no_logprobs(tmp_path: Path) -> None:
    [tree] = searched("a")
    inserted = Node(1, np.array([7, 8], np.int32), "!", np.full(2, np.nan, np.float32), "inserted")
    tree.nodes.append(inserted)
    write_shard(tmp_path / "a.parquet", [tree])
    [back] = read_shard(tmp_path / "a.parquet")
    assert same(back.nodes[-1], inserted)
    drawn = len(tree.nodes[1].token_ids)
    assert back.path_sampled(len(tree.nodes) - 1).tolist() == [True] * drawn + [False] * 2


@pytest.mark.parametrize("written", [[], ["a", "a"]], ids=["no trees", "one problem twice"])
def test_what_is_no_shard_is_not_written(written: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one tree and at most one a problem"):
        write_shard(tmp_path / "shard-00000.parquet", searched(*written))
    assert not list(tmp_path.iterdir())


def test_damage_is_found_or_harmless(tmp_path: Path) -> None:
    """Every cut, and single flipped bits: an error that names the file, or the right trees."""
    path = tmp_path / "shard-00000.parquet"
    written = searched("a")
    write_shard(path, written)
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    messages = []
    for trial in range(400):
        bad = bytearray(good)
        if trial % 4 == 0:
            bad = bad[: generator.integers(0, len(good))]
        else:
            bad[generator.integers(0, len(good))] ^= 1 << generator.integers(0, 8)
        path.write_bytes(bad)
        try:
            unharmed = same(read_shard(path), written)
        except UserError as error:
            messages.append(str(error))
        else:
            assert unharmed
    assert len(messages) > 250
    assert set(messages) == {
        f"{path} is empty, damaged or no file of search trees; delete it and run the recipe "
        "again: only its trees are computed anew"
    }


def table(version: bytes | None, **columns: pa.Array) -> pa.Table:
    schema = SCHEMA.with_metadata({FORMAT_KEY: version} if version else {})
    empty = schema.empty_table()
    return empty if not columns else pa.table(columns).replace_schema_metadata(schema.metadata)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty, damaged"),
        (b"not parquet", "empty, damaged"),
        (table(b"2"), "empty, damaged"),
        (table(None), "empty, damaged"),
        (table(b"2", problem_id=pa.array(["a"])), "empty, damaged"),
        (table(b"3"), "format 3 and this butwait reads format 2; read it with the newer"),
        (table(b"1"), "format 1 and this butwait reads format 2; read it with the older"),
    ],
    ids=["no bytes", "text", "no rows", "no version", "other columns", "newer", "older"],
)
def test_files_that_are_no_shards(content, message: str, tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        pq.write_table(content, path)
    with pytest.raises(UserError, match=message):
        read_shard(path)


def test_columns_that_contradict_each_other(tmp_path: Path) -> None:
    path = tmp_path / "shard-00000.parquet"
    write_shard(path, searched("a"))
    rows = pq.read_table(path)
    short = pa.array([rows["token_ids"][0].as_py()[:-1]], SCHEMA.field("token_ids").type)
    rows = rows.set_column(rows.schema.get_field_index("token_ids"), "token_ids", short)
    pq.write_table(rows, path)
    with pytest.raises(UserError, match="empty, damaged"):
        read_shard(path)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no search trees in"):
        read_tree(tmp_path, "a")
    with pytest.raises(UserError, match="no file of search trees at"):
        read_shard(tmp_path / "shard-00000.parquet")
    write_shard(tmp_path / "shard-00000.parquet", searched("a"))
    with pytest.raises(UserError, match="no tree of problem 'b'"):
        read_tree(tmp_path, "b")
