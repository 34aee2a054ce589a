"""After a crowd nothing is left in the process: no task, no slot, no row of the batch."""

import asyncio
import gc
import socket

import pytest
from mixed_requests import mixed

from butwait.engines.sampling import LiveRows
from butwait.engines.slots import SlotModel

pytestmark = pytest.mark.slow


def held() -> tuple[int, int]:
    """(slots that are free, rows that are alive) of all engines of this process."""
    things = gc.get_objects()
    free = sum(model.free for model in things if isinstance(model, SlotModel))
    return free, sum(len(rows.jobs) for rows in things if isinstance(rows, LiveRows))


def test_nothing_is_left_of_a_crowd() -> None:
    import uvicorn

    from butwait.server.app import Service, application
    from butwait.server.jobs import Jobs
    from butwait.server.methods import Methods
    from butwait.server.serve import _job
    from butwait.server.settings import ServeSettings
    from butwait.workers.crew import at_work

    async def crowd() -> None:
        methods = Methods(ServeSettings())
        async with at_work(_job(methods), methods.recipe.workers) as crew:
            jobs = Jobs(64, 256)
            app = application(Service(methods, crew, jobs, ()))
            config = uvicorn.Config(app, log_level="critical", lifespan="off")
            server = uvicorn.Server(config)
            with socket.socket() as listener:
                listener.bind(("127.0.0.1", 0))
                serving = asyncio.ensure_future(server.serve([listener]))
                while not server.started:
                    await asyncio.sleep(0.02)
                base = f"http://127.0.0.1:{listener.getsockname()[1]}"
                await mixed(base, 40, seed=4)
                await idle(jobs)
                tasks, before = asyncio.all_tasks(), held()
                counted = crew.policy_tokens
                seen = await mixed(base, 150, seed=5)
                await idle(jobs)
                assert asyncio.all_tasks() <= tasks
                assert held() == before
                assert crew.policy_tokens - counted >= seen.told > 0
                server.should_exit = True
                await serving

    asyncio.run(crowd())


async def idle(jobs: object) -> None:
    """Waits until no request is there, and for what is cancelled to come to its end."""
    while jobs.running or jobs.waiting:  # type: ignore[attr-defined]
        await asyncio.sleep(0.05)
    await asyncio.sleep(1)
