"""redis-py's Lock, django-redis, python-redis-lock, limits. Usage: locks.py PORT NAME."""

import sys
import threading
import time

import redis

PORT = int(sys.argv[1])
URL = f"redis://127.0.0.1:{PORT}/0"
client = redis.Redis(port=PORT)


def redis_py_lock() -> None:
    lock = client.lock("lock:1", timeout=10)
    assert lock.acquire(blocking=False)
    assert not client.lock("lock:1").acquire(blocking=False)
    assert lock.owned()
    assert lock.extend(5)
    assert lock.reacquire()
    lock.release()
    assert not lock.locked()
    script = client.register_script("return redis.call('INCRBY', KEYS[1], ARGV[1])")
    assert script(keys=["n"], args=[3]) == 3


def django() -> None:
    from django.conf import settings

    backend = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": URL}
    settings.configure(CACHES={"default": backend}, USE_TZ=True)
    from django.core.cache import cache

    cache.set("a", {"x": 1}, timeout=60)
    assert cache.get("a") == {"x": 1}
    assert cache.incr_version("a") == 2
    with cache.lock("django", timeout=5):
        assert not cache.lock("django").acquire(blocking=False)
    cache.set("a1", 1)
    assert cache.delete_pattern("a*") == 1
    cache.set("b", 1)
    cache.clear()
    assert cache.get("b") is None


def redis_lock() -> None:
    import redis_lock as library

    lock = library.Lock(client, "job", expire=10, auto_renewal=True)
    assert lock.acquire(blocking=False)
    other = library.Lock(client, "job", expire=10)
    assert not other.acquire(blocking=False)
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(other.acquire(timeout=9)))
    waiting.start()
    time.sleep(0.2)  # it waits in BLPOP by now, or finds the signal there
    lock.release()
    waiting.join()
    assert got == [True]
    other.release()
    library.reset_all(client)


def limits(strategy: str) -> None:
    from limits import parse, storage, strategies

    store = storage.storage_from_string(URL)
    limiter, rule = getattr(strategies, strategy)(store), parse("3/hour")
    assert [limiter.hit(rule, "name") for _ in range(5)] == [True] * 3 + [False] * 2
    assert limiter.get_window_stats(rule, "name").remaining == 0
    limiter.clear(rule, "name")
    assert limiter.hit(rule, "name")
    store.reset()


def limits_fixed() -> None:
    limits("FixedWindowRateLimiter")


def limits_moving() -> None:
    limits("MovingWindowRateLimiter")


def limits_sliding() -> None:
    limits("SlidingWindowCounterRateLimiter")


globals()[sys.argv[2]]()
