"""The compiled hot path; its sources are in native/, its typed face is in the stubs here."""
