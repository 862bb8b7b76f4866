'use strict';
// Driver of the official RocketMQ 5 Node.js client. Contract: ../README.md
const fs = require('node:fs');
const os = require('node:os');
const path = require('node:path');
const util = require('node:util');

const PAUSE = 200; // ms between a failure and the next try
let finished = false;

const write = (event, fields) => fs.writeSync(1, JSON.stringify({ event, ...fields }) + '\n');
const emit = (event, fields) => {
  if (!finished) write(event, fields);
};
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));

/** Print the closing line once, try to shut the client down for at most 3 s, leave. */
async function finish(code, event, client, fields) {
  if (finished) return new Promise(() => {});
  if (event) write(event, fields);
  finished = true;
  if (client) {
    const quiet = client.shutdown().catch(e => console.error('shutdown:', e.message));
    await Promise.race([ quiet, sleep(3000) ]);
  }
  process.exit(code);
}

/** Numeric status code of a client exception, or null (gRPC codes are small numbers). */
function codeOf(e) {
  for (let depth = 0; e && depth < 10; depth++, e = e.cause) {
    if (typeof e.code === 'number' && e.code >= 10000) return e.code;
  }
  return null;
}

function textOf(e) {
  const parts = [];
  for (let depth = 0; e && depth < 10; depth++, e = e.cause) {
    const text = String(e.message ?? e);
    if (!parts.some(p => p.includes(text))) parts.push(text);
  }
  return parts.join(': ');
}

function received(m, more) {
  const body = m.body;
  const dot = body.indexOf('.');
  emit('received', {
    id: m.messageId,
    body: (dot < 0 ? body : body.subarray(0, dot)).toString('utf8'),
    tag: m.tag || null, // '' stands for none
    keys: m.keys,
    properties: Object.fromEntries(m.properties),
    attempt: m.deliveryAttempt ?? null,
    topic: m.topic,
    len: body.length,
    group: m.messageGroup || null,
    corrupted: Boolean(m.corrupted),
    ts: Date.now(),
    ...more,
  });
}

function usage(text) {
  console.error('driver: ' + text);
  process.exit(1);
}

function args() {
  const [ cmd, ...rest ] = process.argv.slice(2);
  const text = { type: 'string' };
  const flag = { type: 'boolean', default: false };
  const common = {
    endpoint: text, tls: flag, ca: text, topic: text, count: text, timeout: text, 'timeout-ms': text,
    'start-timeout-ms': text, 'keep-going': flag, recall: flag,
  };
  const consumer = { ...common, group: text, filter: text, sql: flag, 'on-message': text };
  const options = {
    version: {},
    produce: {
      ...common, size: text, tag: text, key: { type: 'string', multiple: true }, prop: { type: 'string', multiple: true },
      'message-group': text, fifo: text, 'delay-ms': text, prefix: text, rate: text, 'topic-declare': text,
      transaction: text, 'end-after-ms': text, checker: text, checks: text, priority: text, lite: { type: 'string', multiple: true },
    },
    simple: { ...consumer, batch: text, 'invisible-ms': text, 'await-ms': text },
    push: { ...consumer, 'linger-ms': text, lite: { type: 'string', multiple: true } },
  }[cmd];
  if (!options) usage(`unknown command ${cmd}`);
  let v;
  try {
    v = util.parseArgs({ args: rest, options, strict: true }).values;
  } catch (e) {
    usage(e.message);
  }
  const number = (name, standard) => {
    const n = v[name] === undefined ? standard : Number(v[name]);
    if (Number.isNaN(n)) usage(`--${name} ${v[name]}?`);
    return n;
  };
  const a = {
    cmd,
    endpoint: v.endpoint, tls: v.tls, ca: v.ca, topic: v.topic, keepGoing: v['keep-going'], recall: v.recall,
    count: number('count', cmd === 'produce' ? 1 : 0),
    timeout: number('timeout-ms', number('timeout', 30000)),
    startTimeout: number('start-timeout-ms', 30000),
    size: number('size', 0), tag: v.tag, keys: v.key ?? [], props: v.prop ?? [],
    messageGroup: v['message-group'] ?? v.fifo,
    delay: v['delay-ms'] === undefined ? undefined : number('delay-ms'),
    priority: v.priority === undefined ? undefined : number('priority'),
    prefix: v.prefix ?? 'm', rate: number('rate', 0), declare: (v['topic-declare'] ?? 'yes') === 'yes',
    transaction: v.transaction, endAfter: number('end-after-ms', 0), checker: v.checker, checks: number('checks', 0),
    group: v.group, filter: v.filter ?? '*', sql: v.sql, onMessage: v['on-message'] ?? 'ack',
    batch: number('batch', 16), invisible: number('invisible-ms', 10000), await: number('await-ms', 5000),
    linger: number('linger-ms', 1000), lite: v.lite ?? [],
  };
  if (cmd !== 'version' && (!a.endpoint || !a.topic)) usage('--endpoint and --topic are needed');
  if ((cmd === 'simple' || cmd === 'push') && !a.group) usage('--group is needed');
  const known = { simple: /^(ack|nothing|change:\d+|ack-after-attempt:\d+)$/, push: /^(ack|fail|fail-until:\d+|slow:\d+)$/ }[cmd];
  if (known && !known.test(a.onMessage)) usage(`--on-message ${a.onMessage}?`);
  return a;
}

const a = args();
if (a.cmd === 'version') {
  const manifest = require('rocketmq-client-nodejs/package.json');
  write('version', { client: manifest.name, version: manifest.version });
  process.exit(0);
}
if (a.tls) {
  if (!a.ca) {
    write('unsupported', { what: 'TLS without --ca: this client trusts the system roots only' });
    process.exit(4);
  }
  process.env.GRPC_DEFAULT_SSL_ROOTS_FILE_PATH = a.ca;
}
const mq = require('rocketmq-client-nodejs');
const { FilterType, TransactionResolution } = require('rocketmq-client-nodejs/proto/apache/rocketmq/v2/definition_pb');

const logs = process.env.FERROMQ_DRIVER_LOGS || path.join(os.tmpdir(), 'ferromq-drivers');
fs.mkdirSync(logs, { recursive: true });
const logFile = fs.openSync(path.join(logs, `node-${process.pid}.log`), 'a');
const log = level => (...rest) => {
  const text = rest.length === 1 && rest[0] instanceof Error ? rest[0].stack : util.format(...rest);
  fs.writeSync(logFile, `${new Date().toISOString()} ${level} ${text}\n`);
};
const logger = { debug: () => {}, info: log('INFO'), warn: log('WARN'), error: log('ERROR'), close: () => {} };
process.on('unhandledRejection', e => log('UNHANDLED')(e));
process.on('uncaughtException', e => log('UNCAUGHT')(e));

const common = { endpoints: a.endpoint, namespace: '', sslEnabled: a.tls, logger };

/** Build and start a client within the start time. */
async function start(make) {
  let client;
  try {
    client = make();
    let timer;
    const late = new Promise((_, reject) => {
      timer = setTimeout(() => reject(new Error('start timed out')), a.startTimeout);
    });
    await Promise.race([ client.startup(), late ]);
    clearTimeout(timer);
  } catch (e) {
    await finish(3, 'start-error', null, { code: codeOf(e), message: textOf(e) });
  }
  emit('ready');
  return client;
}

/** Leave when the time is over: a goal missed (2), or none was set (withoutCount). */
function deadline(client, state, withoutCount) {
  setTimeout(() => {
    const code = a.count > 0 || withoutCount === undefined ? 2 : withoutCount;
    finish(code, 'done', client, { reason: 'timeout', ...state });
  }, a.timeout);
}

async function produce() {
  const state = { sent: 0, ended: 0, checked: 0 };
  const resolutions = {
    commit: TransactionResolution.COMMIT, rollback: TransactionResolution.ROLLBACK,
    unknown: TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED,
  };
  let checked;
  const allChecked = new Promise(resolve => { checked = resolve; });
  const checker = a.transaction || a.checker ? {
    async check(m) {
      const resolution = a.checker ?? 'unknown';
      emit('checked', { id: m.messageId, body: m.body.toString('utf8').split('.')[0], resolution, ts: Date.now() });
      if (++state.checked >= a.checks) checked();
      return resolutions[resolution];
    },
  } : undefined;
  const client = await start(() => new mq.Producer({ ...common, topics: a.declare ? [ a.topic ] : undefined, checker }));
  deadline(client, state);
  const t0 = performance.now();
  for (let i = 0; i < a.count; i++) {
    if (a.rate > 0) await sleep(Math.max(0, t0 + i * 1000 / a.rate - performance.now()));
    const text = `${a.prefix}${i}`;
    const plain = Buffer.from(text);
    const body = Buffer.concat([ plain, Buffer.alloc(Math.max(0, a.size - plain.length), '.') ]);
    const properties = new Map(a.props.map(kv => [ kv.split('=', 1)[0], kv.slice(kv.indexOf('=') + 1) ]));
    let transaction;
    let r;
    let id;
    for (;;) {
      try {
        transaction = a.transaction ? client.beginTransaction() : undefined;
        r = await client.send({
          topic: a.topic, body, tag: a.tag, keys: a.keys, properties, messageGroup: a.messageGroup, liteTopic: a.lite[0],
          priority: a.priority,
          deliveryTimestamp: a.delay === undefined ? undefined : new Date(Date.now() + a.delay),
        }, transaction);
        id = r.messageId;
        emit('sent', { i, id, body: text, ts: Date.now() });
        state.sent++;
        break;
      } catch (e) {
        emit('error', { i, code: codeOf(e), message: textOf(e), op: 'send' });
        if (!a.keepGoing) return finish(1, null, client);
        await sleep(PAUSE);
      }
    }
    if (a.recall) {
      try {
        const recalled = await client.recallMessage(a.topic, r.recallHandle);
        emit('recalled', { id: recalled.messageId, ts: Date.now() });
      } catch (e) {
        emit('error', { i, code: codeOf(e), message: textOf(e), op: 'recall' });
        return finish(1, null, client);
      }
    }
    if (a.transaction === 'commit' || a.transaction === 'rollback') {
      await sleep(a.endAfter);
      await end(client, transaction, id);
      state.ended++;
    }
  }
  if (a.checks > 0) {
    await allChecked;
    await sleep(1000); // the answer to the last check goes out
  }
  return finish(0, 'done', client, state);
}

async function end(client, transaction, id) {
  for (;;) {
    try {
      await (a.transaction === 'commit' ? transaction.commit() : transaction.rollback());
      emit('ended', { id, resolution: a.transaction, ts: Date.now() });
      return;
    } catch (e) {
      emit('error', { id, code: codeOf(e), message: textOf(e), op: 'end' });
      if (!a.keepGoing) await finish(1, null, client);
      await sleep(PAUSE);
    }
  }
}

const subscriptions = () =>
  new Map([[ a.topic, new mq.FilterExpression(a.filter, a.sql ? FilterType.SQL : FilterType.TAG) ]]);

async function simple() {
  const client = await start(() => new mq.SimpleConsumer({
    ...common, consumerGroup: a.group, subscriptions: subscriptions(), awaitDuration: a.await,
  }));
  const state = { received: 0, acked: 0, changed: 0 };
  const [ kind, n ] = a.onMessage.split(':');
  const goal = { nothing: 'received', change: 'changed' }[kind] ?? 'acked';
  deadline(client, state, 0);
  const attempt = async (op, fields, f) => {
    try {
      return { value: await f() };
    } catch (e) {
      emit('error', { code: codeOf(e), message: textOf(e), op, ...fields });
      if (!a.keepGoing) await finish(1, null, client);
      await sleep(PAUSE);
      return null;
    }
  };
  for (;;) {
    const result = await attempt('receive', {}, () => client.receive(a.batch, a.invisible));
    for (const m of result?.value ?? []) {
      const id = m.messageId;
      received(m);
      state.received++;
      if (kind === 'change') {
        if (await attempt('change', { id }, () => client.changeInvisibleDuration(m, Number(n)))) {
          emit('changed', { id, ts: Date.now() });
          state.changed++;
        }
      } else if (kind === 'ack' || (kind === 'ack-after-attempt' && (m.deliveryAttempt ?? 0) >= Number(n))) {
        if (await attempt('ack', { id }, () => client.ack(m))) {
          emit('acked', { id, ts: Date.now() });
          state.acked++;
        }
      }
      if (a.count > 0 && state[goal] >= a.count) return finish(0, 'done', client, state);
    }
  }
}

async function push() {
  const state = { received: 0, succeeded: 0 };
  const succeeded = new Set();
  const [ kind, n ] = a.onMessage.split(':');
  let full;
  const goal = new Promise(resolve => {
    full = resolve;
  });
  const messageListener = {
    async consume(m) {
      const ok = kind === 'ack' || kind === 'slow' || (kind === 'fail-until' && (m.deliveryAttempt ?? 0) >= Number(n));
      received(m, { result: ok ? 'success' : 'failure' });
      state.received++;
      if (kind === 'slow') await sleep(Number(n));
      if (ok) succeeded.add(m.messageId);
      state.succeeded = succeeded.size;
      if (a.count > 0 && succeeded.size >= a.count) full();
      return ok ? mq.ConsumeResult.SUCCESS : mq.ConsumeResult.FAILURE;
    },
  };
  const client = await start(() => (a.lite.length > 0
    ? new mq.LitePushConsumerImpl({ ...common, consumerGroup: a.group, bindTopic: a.topic, messageListener })
    : new mq.PushConsumer({ ...common, consumerGroup: a.group, subscriptions: subscriptions(), messageListener })));
  for (const lite of a.lite) {
    try {
      await client.subscribeLite(lite);
      emit('subscribed', { lite });
    } catch (e) {
      emit('error', { code: codeOf(e), message: textOf(e), op: 'subscribe' });
      return finish(1, null, client);
    }
  }
  deadline(client, state, 0);
  await goal;
  await sleep(a.linger); // the acks of the last messages go out
  return finish(0, 'done', client, state);
}

({ produce, simple, push })[a.cmd]().catch(e => {
  console.error(e);
  process.exit(1);
});
