"""dramatiq, rq, celery, huey, arq: a job goes through. Usage: queues.py PORT NAME."""

import asyncio
import sys

import redis

PORT = int(sys.argv[1])
URL = f"redis://127.0.0.1:{PORT}/0"
client = redis.Redis(port=PORT)


def dramatiq() -> None:
    import dramatiq as library
    from dramatiq.brokers.redis import RedisBroker
    from dramatiq.results import Results
    from dramatiq.results.backends import RedisBackend

    broker = RedisBroker(url=URL)
    broker.add_middleware(Results(backend=RedisBackend(url=URL)))
    library.set_broker(broker)

    @library.actor(store_results=True)
    def add(x: int, y: int) -> int:
        return x + y

    worker = library.Worker(broker, worker_timeout=100)
    worker.start()
    try:
        assert add.send(2, 3).get_result(block=True, timeout=30_000) == 5
        broker.join(add.queue_name, timeout=30_000)
    finally:
        worker.stop()


def rq() -> None:
    from operator import add

    import rq as library

    queue = library.Queue(connection=client)
    job = queue.enqueue(add, 2, 3)
    library.SimpleWorker([queue], connection=client).work(burst=True)
    assert job.get_status() == "finished", job.get_status()
    assert job.return_value() == 5


def celery() -> None:
    from celery import Celery
    from celery.contrib.testing.worker import start_worker

    app = Celery("jobs", broker=URL, backend=URL)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    app.loader.import_module("celery.contrib.testing.tasks")
    with start_worker(app, perform_ping_check=False, pool="solo"):
        assert add.delay(2, 3).get(timeout=30) == 5


def celery_results() -> None:
    """Results that are joined: a chord counts its parts in Redis."""
    from celery import Celery, chord
    from celery.contrib.testing.worker import start_worker

    app = Celery("sums", broker=URL, backend=URL)

    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    app.loader.import_module("celery.contrib.testing.tasks")
    with start_worker(app, perform_ping_check=False, pool="solo"):
        assert chord(double.s(x) for x in range(4))(total.s()).get(timeout=30) == 12


def huey() -> None:
    from huey import RedisHuey

    app = RedisHuey("jobs", host="127.0.0.1", port=PORT, blocking=True)

    @app.task()
    def add(x: int, y: int) -> int:
        return x + y

    consumer = app.create_consumer(workers=1)
    consumer.start()
    try:
        assert add(2, 3).get(blocking=True, timeout=30) == 5
        with app.lock_task("lock"):
            assert app.is_locked("lock")
    finally:
        consumer.stop()


def arq() -> None:
    from arq import create_pool
    from arq.connections import RedisSettings
    from arq.worker import Worker, func

    async def add(_context: object, x: int, y: int) -> int:
        return x + y

    async def run() -> None:
        where = RedisSettings(host="127.0.0.1", port=PORT)
        pool = await create_pool(where)
        job = await pool.enqueue_job("add", 2, 3)
        assert job is not None
        worker = Worker(
            [func(add, name="add")], redis_settings=where, burst=True, handle_signals=False
        )
        await worker.main()
        assert await job.result(timeout=30) == 5
        await worker.close()
        await pool.aclose()

    asyncio.run(run())


globals()[sys.argv[2]]()
