"""The hub's end of the links: sessions, who is to slow down, how far the log is ahead of views."""
