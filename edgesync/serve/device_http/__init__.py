"""The door for devices that speak HTTP: ThingsBoard's HTTP API for devices."""
