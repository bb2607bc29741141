"""What HTTP devices ask for: method and target of a request."""

from edgesync.serve.device_http.requests import Problem, read_target
from tests.fuzz.fuzz import Target

SAMPLES = (
    b"POST /api/v1/A1_TEST_TOKEN/telemetry",
    b"GET /api/v1/A1%20TOKEN/attributes?clientKeys=a,b&sharedKeys=c%2Cd",
    b"POST /api/v1/A1_TEST_TOKEN/rpc",
    b"GET /api/v1/A1_TEST_TOKEN/rpc?timeout=20000",
    b"DELETE /api/v1//telemetry#x",
)


def read(data: bytes) -> None:
    method, _, target = data.decode("latin-1").partition(" ")
    asked = read_target(method, target)
    assert asked.token
    assert asked.topic.startswith("v1/devices/me/")


TARGETS = [Target("device requests", list(SAMPLES), read, (Problem,))]
