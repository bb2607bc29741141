"""The hub's keys: what all edges wrote, and what clients of the hub write themselves."""

from hubd.cells.answers import Answers as Answers
from hubd.cells.keyspaces import Keyspaces as Keyspaces
from hubd.cells.store import HubCells as HubCells
