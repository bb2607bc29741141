// Programs of Node.js against an edge: node programs.cjs PORT NAME (NODE_PATH says where they are).
const assert = require("node:assert");
const port = Number(process.argv[2]);
const Redis = require("ioredis");
const connection = { host: "127.0.0.1", port, maxRetriesPerRequest: null };

const programs = {
  async ioredis() {
    const client = new Redis(connection);
    client.defineCommand("double", { numberOfKeys: 1, lua: "return redis.call('GET', KEYS[1]) * ARGV[1]" });
    await client.set("n", 21);
    assert.strictEqual(await client.double("n", 2), 42);
    assert.strictEqual(await client.double("n", 3), 63);
    const popped = client.duplicate().blpop("list", 20);
    await client.rpush("list", "x");
    assert.deepStrictEqual(await popped, ["list", "x"]);
  },
  async bull() {
    const Queue = require("bull");
    const queue = new Queue("jobs", { redis: connection });
    queue.process(async (job) => job.data.x + 1);
    const job = await queue.add({ x: 4 });
    const delayed = await queue.add({ x: 5 }, { delay: 50 });
    assert.strictEqual(await job.finished(), 5);
    assert.strictEqual(await delayed.finished(), 6);
    assert.strictEqual((await queue.getJobCounts()).completed, 2);
  },
  async bullmq() {
    const { Queue, Worker, QueueEvents } = require("bullmq");
    const queue = new Queue("mq", { connection });
    const events = new QueueEvents("mq", { connection });
    const worker = new Worker("mq", async (job) => job.data.x + 1, { connection });
    const job = await queue.add("add", { x: 4 });
    assert.strictEqual(await job.waitUntilFinished(events, 20000), 5);
    await worker.close();
  },
  async bee() {
    const Queue = require("bee-queue");
    const queue = new Queue("bee", { redis: connection });
    const done = new Promise((resolve) => queue.on("succeeded", (_job, result) => resolve(result)));
    queue.process(async (job) => job.data.x + 1);
    await queue.createJob({ x: 4 }).save();
    assert.strictEqual(await done, 5);
  },
  async redlock() {
    const Redlock = require("redlock");
    const locks = new Redlock([new Redis(connection)], { retryCount: 0 });
    const lock = await locks.lock("door", 5000);
    await assert.rejects(locks.lock("door", 5000));
    await lock.extend(5000);
    await lock.unlock();
    await (await locks.lock("door", 5000)).unlock();
  },
  async flexible() {
    const { RateLimiterRedis } = require("rate-limiter-flexible");
    const limiter = new RateLimiterRedis({ storeClient: new Redis(connection), points: 2, duration: 60 });
    await limiter.consume("me");
    assert.strictEqual((await limiter.consume("me")).remainingPoints, 0);
    await assert.rejects(limiter.consume("me"));
  },
  async ratelimit() {
    const { RedisStore } = require("rate-limit-redis");
    const client = new Redis(connection);
    const store = new RedisStore({ sendCommand: (command, ...args) => client.call(command, ...args) });
    await store.init({ windowMs: 60000 });
    assert.strictEqual((await store.increment("me")).totalHits, 1);
    assert.strictEqual((await store.increment("me")).totalHits, 2);
    await store.decrement("me");
    await store.resetKey("me");
    assert.strictEqual((await store.increment("me")).totalHits, 1);
  },
};

const name = process.argv[3];
setTimeout(() => { console.error("timed out"); process.exit(2); }, 45000);
programs[name]().then(() => process.exit(0), (error) => { console.error(error); process.exit(1); });
