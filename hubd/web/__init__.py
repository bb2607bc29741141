"""The dashboard: pages made on the server, kept fresh by server-sent events."""
