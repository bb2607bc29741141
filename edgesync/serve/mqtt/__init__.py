"""MQTT 3.1.1 and 5 for devices: what they publish is acknowledged when it is on disk (I1)."""
