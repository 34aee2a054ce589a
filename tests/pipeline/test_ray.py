"""Workers on a Ray cluster of several nodes on this machine, some of which are lost."""

import json
from pathlib import Path

import pytest
from ray_alone import alone, done_alone, scenario

from whole import WHOLE

pytest.importorskip("ray", reason="ray is not installed")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_a_search_over_two_nodes_survives_the_loss_of_one(tmp_path: Path) -> None:
    found = scenario("two_nodes", tmp_path, 190)
    assert found["trees"] == 5
    assert found["same"]
    assert found["lost"] == 1
    assert found["packed"] == "q0"
    assert "each wants 1 CPU and 3 GPUs on one node of the Ray cluster" in found["no room"]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_search_survives_the_ends_of_its_workers(tmp_path: Path) -> None:
    found = scenario("workers_killed", tmp_path, 290)
    assert found == {"killed": 20, "trees": 20, "same": True}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_nothing_is_left_of_a_run_that_is_killed_and_it_goes_on(tmp_path: Path) -> None:
    found = scenario("drivers_killed", tmp_path, 390)
    assert found["killed"] == 10
    assert found["left"] == [0] * 10
    assert found["again"] == 0
    assert (found["code"], found["trees"], found["same"]) == (0, 10, True)


@pytest.mark.slow
@pytest.mark.timeout(500)
def test_two_nodes_and_many_workers_give_what_they_should(tmp_path: Path) -> None:
    """Problems that wait for seconds and compute for milliseconds, so that the machine's own load
    says little. BUTWAIT_WHOLE=1 starts 64 workers."""
    parts = ["overhead", "two_nodes", *(["sixty_four"] if WHOLE else [])]
    script = Path(__file__).parents[2] / "benchmarks" / "bench_ray.py"
    output = tmp_path / "ray.json"
    done_alone([str(script), "--parts", *parts, "--output", str(output)], tmp_path, 490)
    found = json.loads(output.read_text())
    assert {name: found[name]["reached"] for name in parts} == dict.fromkeys(parts, True)


@pytest.mark.slow
def test_a_run_is_started_on_each_node_by_one_command(tmp_path: Path) -> None:
    if not alone():
        pytest.skip("at its end the command ends every Ray cluster that it sees")
    found = scenario("symmetric", tmp_path, 240)
    assert found == {"code": 0, "trees": 5, "same": True}
