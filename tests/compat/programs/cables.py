"""paho-mqtt publishes COUNT messages of QoS 1, whatever happens to the cable.

Usage: cables.py PORT COUNT VERSION.
"""

import sys
import threading

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

PORT, COUNT = int(sys.argv[1]), int(sys.argv[2])
PROTOCOLS = {"3": MQTTProtocolVersion.MQTTv311, "5": MQTTProtocolVersion.MQTTv5}

all_acknowledged = threading.Event()
acknowledged: set[int] = set()


def on_publish(_client: object, _data: object, mid: int, *_more: object) -> None:
    acknowledged.add(mid)
    if len(acknowledged) == COUNT:
        all_acknowledged.set()


client = paho.Client(
    CallbackAPIVersion.VERSION2, client_id="cables", protocol=PROTOCOLS[sys.argv[3]]
)
client.on_publish = on_publish
client.username_pw_set("SCALE_TOKEN")
client.reconnect_delay_set(0.05, 0.05)
client.connect("127.0.0.1", PORT)
client.loop_start()
for number in range(COUNT):
    client.publish("v1/devices/me/telemetry", f'{{"n":{number}}}', qos=1)
assert all_acknowledged.wait(120), f"{len(acknowledged)} of {COUNT} acknowledged"
client.disconnect()
client.loop_stop()
