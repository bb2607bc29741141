"""What the hub knows, as SQL: made by the projectors from the log, read by API and dashboard.

All of it can be made again from the log, so losing the last moments of it in a power cut costs
nothing: the projectors' cursors are beside it and go back by the same amount (I9).
"""

from hubd.state.damage import StateDamaged as StateDamaged
from hubd.state.database import UNREADABLE as UNREADABLE
from hubd.state.database import QueryTooSlow as QueryTooSlow
from hubd.state.database import State as State
from hubd.state.database import StateAway as StateAway
from hubd.state.database import StateReplaced as StateReplaced
from hubd.state.file import open_state as open_state
