"""The link to the hub: the shell around `edgesync_transport.sender`."""
