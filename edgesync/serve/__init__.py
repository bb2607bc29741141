"""What others may ask a running edge: its control socket, and metrics over HTTP."""
