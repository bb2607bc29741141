"""The hub's HTTP API and, on the same port, its dashboard (docs/api.md)."""

from hubd.api.app import make_app as make_app
from hubd.api.context import Context as Context
from hubd.api.settings import ApiSettings as ApiSettings
