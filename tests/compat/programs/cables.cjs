// MQTT.js publishes COUNT messages of QoS 1, whatever happens to the cable:
// node cables.cjs PORT COUNT VERSION (NODE_PATH says where it is).
const mqtt = require("mqtt");
const [port, count, version] = process.argv.slice(2).map(Number);

const client = mqtt.connect(`mqtt://127.0.0.1:${port}`, {
  username: "SCALE_TOKEN", clientId: "cables", protocolVersion: version === 5 ? 5 : 4,
  reconnectPeriod: 50, clean: true,
});
let acknowledged = 0;
client.on("error", (error) => console.error(String(error)));
client.once("connect", () => {
  for (let number = 0; number < count; number++) {
    client.publish("v1/devices/me/telemetry", JSON.stringify({ n: number }), { qos: 1 }, (error) => {
      if (error) throw error;
      if (++acknowledged === count) client.end(false, () => process.exit(0));
    });
  }
});
setTimeout(() => {
  console.error(`${acknowledged} of ${count} acknowledged`);
  process.exit(1);
}, 120_000);
