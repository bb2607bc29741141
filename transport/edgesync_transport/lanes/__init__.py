"""One direction of a link: what is sent, what is under way, what is durable.

Nothing in here knows who greeted whom. A session (`sender.py`, `receiver.py`) begins its lanes with
what was agreed on, hands them what arrives, and sends what they return.
"""
