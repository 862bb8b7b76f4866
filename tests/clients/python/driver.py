"""Driver of the official RocketMQ 5 Python client. Contract: ../README.md"""
import argparse
import faulthandler
import json
import math
import os
import re
import sys
import tempfile
import threading
import time

OUT = threading.Lock()
FINISHED = False
PAUSE = 0.2  # seconds between a failure and the next try


def emit(event, **fields):
    with OUT:
        if FINISHED:
            return
        _write(event, fields)


def _write(event, fields):
    sys.stdout.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def finish(status, event=None, client=None, **fields):
    """Print the closing line once, try to shut the client down for at most 3 s, leave."""
    global FINISHED
    with OUT:
        if FINISHED:
            threading.Event().wait()  # another thread is already leaving
        if event:
            _write(event, fields)
        FINISHED = True
    if client is not None:
        t = threading.Thread(target=_quiet, args=(client.shutdown,), daemon=True)
        t.start()
        t.join(3)
    sys.stdout.flush()
    os._exit(status)


def _quiet(f):
    try:
        f()
    except BaseException as e:
        print(f"shutdown: {e!r}", file=sys.stderr)


def code_of(e):
    """Numeric status code of a client exception, or None."""
    seen = 0
    while e is not None and seen < 10:
        c = getattr(e, "code", None)
        if isinstance(c, int) and c >= 10000:
            return int(c)
        e = e.__cause__ or e.__context__
        seen += 1
    return None


def text_of(e):
    parts = []
    for _ in range(10):
        if e is None:
            break
        text = str(e) or repr(e)
        if text not in parts:
            parts.append(text)
        e = e.__cause__ or e.__context__
    return ": ".join(parts)


def now_ms():
    return int(time.time() * 1000)


def seconds(ms):
    return max(1, math.ceil(ms / 1000))  # this client takes whole seconds only


def received(m, **more):
    body = bytes(m.body or b"")
    emit(
        "received",
        id=m.message_id,
        body=body.split(b".", 1)[0].decode("utf-8", "replace"),
        tag=m.tag,
        keys=sorted(m.keys or []),
        properties=dict(m.properties or {}),
        attempt=m.delivery_attempt,
        topic=m.topic,
        len=len(body),
        group=m.message_group,
        priority=m.priority,
        lite=m.lite_topic,
        corrupted=bool(m.corrupted),
        ts=now_ms(),
        **more,
    )


def arguments():
    p = argparse.ArgumentParser(prog="driver", allow_abbrev=False)
    sub = p.add_subparsers(dest="cmd", required=True)
    sub.add_parser("version")
    for name in ("produce", "simple", "push"):
        s = sub.add_parser(name, allow_abbrev=False)
        s.add_argument("--endpoint", required=True)
        s.add_argument("--tls", action="store_true")
        s.add_argument("--ca")
        s.add_argument("--topic", required=True)
        s.add_argument("--count", type=int, default=1 if name == "produce" else 0)
        s.add_argument("--timeout-ms", "--timeout", type=int, default=30000)
        s.add_argument("--start-timeout-ms", type=int, default=30000)
        s.add_argument("--keep-going", action="store_true")
        if name == "produce":
            s.add_argument("--size", type=int, default=0)
            s.add_argument("--tag")
            s.add_argument("--key", action="append", default=[])
            s.add_argument("--prop", action="append", default=[])
            s.add_argument("--message-group", "--fifo")
            s.add_argument("--delay-ms", type=int)
            s.add_argument("--priority", type=int)
            s.add_argument("--lite")
            s.add_argument("--recall", action="store_true")
            s.add_argument("--prefix", default="m")
            s.add_argument("--rate", type=float, default=0)
            s.add_argument("--topic-declare", choices=("yes", "no"), default="yes")
            s.add_argument("--transaction", choices=("commit", "rollback", "leave"))
            s.add_argument("--end-after-ms", type=int, default=0)
            s.add_argument("--checker", choices=("commit", "rollback", "unknown"))
            s.add_argument("--checks", type=int, default=0)
        else:
            s.add_argument("--group", required=True)
            s.add_argument("--filter", default="*")
            s.add_argument("--sql", action="store_true")
            s.add_argument("--on-message", default="ack")
            s.add_argument("--lite", action="append", default=[])
            if name == "simple":
                s.add_argument("--batch", type=int, default=16)
                s.add_argument("--invisible-ms", type=int, default=10000)
                s.add_argument("--await-ms", type=int, default=5000)
            else:
                s.add_argument("--linger-ms", type=int, default=1000)
    try:
        return p.parse_args()
    except SystemExit as e:
        os._exit(1 if e.code else 0)


def start(a, make):
    """Build and start a client within the start time."""
    box = {}

    def run():
        try:
            box["client"] = c = make()
            c.startup()
            box["ok"] = True
        except BaseException as e:
            box["error"] = e

    t = threading.Thread(target=run, daemon=True)
    t.start()
    t.join(a.start_timeout_ms / 1000)
    if "error" in box:
        e = box["error"]
        finish(3, "start-error", code=code_of(e), message=text_of(e))
    if "ok" not in box:
        finish(3, "start-error", code=None, message="start timed out")
    emit("ready")
    return box["client"]


def deadline(a, client, without_count, done):
    """Leave when the time is over: a goal missed (2), or none was set (without_count)."""

    def run():
        time.sleep(a.timeout_ms / 1000)
        code = 2 if (a.count > 0 or without_count is None) else without_count
        finish(code, "done", client, reason="timeout", **done())

    threading.Thread(target=run, daemon=True).start()


def produce(a, mq, config):
    topics = [a.topic] if a.topic_declare == "yes" else None
    state = {"sent": 0, "ended": 0, "checked": 0}
    checked = threading.Event()
    resolutions = {
        "commit": mq.TransactionResolution.COMMIT,
        "rollback": mq.TransactionResolution.ROLLBACK,
        "unknown": mq.TransactionResolution.TRANSACTION_RESOLUTION_UNSPECIFIED,
    }

    class Checker(mq.TransactionChecker):
        def check(self, m):
            answer = a.checker or "unknown"
            text = bytes(m.body or b"").split(b".", 1)[0].decode("utf-8", "replace")
            emit("checked", id=m.message_id, body=text, resolution=answer, ts=now_ms())
            state["checked"] += 1
            if state["checked"] >= a.checks:
                checked.set()
            return resolutions[answer]

    checker = Checker() if a.transaction or a.checker else None
    client = start(a, lambda: mq.Producer(config(), topics, checker, tls_enable=a.tls))
    deadline(a, client, None, lambda: state)
    t0 = time.monotonic()
    for i in range(a.count):
        if a.rate > 0:
            time.sleep(max(0, t0 + i / a.rate - time.monotonic()))
        text = f"{a.prefix}{i}"
        while True:
            try:
                m = mq.Message()
                m.topic = a.topic
                m.body = text.encode().ljust(a.size, b".")
                if a.tag is not None:
                    m.tag = a.tag
                for k in a.key:
                    m.keys = k
                for kv in a.prop:
                    k, _, v = kv.partition("=")
                    m.add_property(k, v)
                if a.message_group is not None:
                    m.message_group = a.message_group
                if a.delay_ms is not None:
                    m.delivery_timestamp = seconds(now_ms() + a.delay_ms)
                if a.priority is not None:
                    m.priority = a.priority
                if a.lite is not None:
                    m.lite_topic = a.lite
                transaction = client.begin_transaction() if a.transaction else None
                r = client.send(m, transaction)
                emit("sent", i=i, id=r.message_id, body=text, ts=now_ms())
                state["sent"] += 1
                break
            except Exception as e:
                emit("error", i=i, code=code_of(e), message=text_of(e), op="send")
                if not a.keep_going:
                    finish(1, None, client)
                time.sleep(PAUSE)
        if a.recall:
            try:
                emit("recalled", id=client.recall_message(a.topic, r.recall_handle), ts=now_ms())
            except Exception as e:
                emit("error", i=i, code=code_of(e), message=text_of(e), op="recall")
                finish(1, None, client)
        if a.transaction in ("commit", "rollback"):
            time.sleep(a.end_after_ms / 1000)
            end(a, client, transaction, r.message_id)
            state["ended"] += 1
    if a.checks > 0:
        checked.wait()
        time.sleep(1)  # the answer to the last check goes out
    finish(0, "done", client, **state)


def end(a, client, transaction, id):
    while True:
        try:
            transaction.commit() if a.transaction == "commit" else transaction.rollback()
            emit("ended", id=id, resolution=a.transaction, ts=now_ms())
            return
        except Exception as e:
            emit("error", id=id, code=code_of(e), message=text_of(e), op="end")
            if not a.keep_going:
                finish(1, None, client)
            time.sleep(PAUSE)


def expression(a, mq):
    from rocketmq.grpc_protocol import FilterType

    return mq.FilterExpression(a.filter, FilterType.SQL if a.sql else FilterType.TAG)


def subscribed(a, client):
    for name in a.lite:
        while True:
            try:
                client.subscribe_lite(name)
                break
            except Exception as e:
                # This client starts before it has its settings, and takes its quota for 0 until then.
                if "quota: 0" not in text_of(e):
                    emit("error", code=code_of(e), message=text_of(e), op="subscribe")
                    finish(1, None, client)
                time.sleep(PAUSE)
        emit("subscribed", lite=name)
    return client


def simple(a, mq, config):
    def make():
        wait = seconds(a.await_ms)
        if a.lite:
            return mq.LiteSimpleConsumer(a.topic, config(), a.group, await_duration=wait, tls_enable=a.tls)
        return mq.SimpleConsumer(
            config(), a.group, {a.topic: expression(a, mq)}, await_duration=wait, tls_enable=a.tls
        )

    client = subscribed(a, start(a, make))
    state = {"received": 0, "acked": 0, "changed": 0}
    goal = {"ack": "acked", "nothing": "received"}.get(a.on_message)
    goal = goal or ("changed" if a.on_message.startswith("change:") else "acked")
    arg = int(a.on_message.partition(":")[2] or 0)
    deadline(a, client, 0, lambda: state)

    def attempt(op, f, **fields):
        try:
            return True, f()
        except Exception as e:
            emit("error", code=code_of(e), message=text_of(e), op=op, **fields)
            if not a.keep_going:
                finish(1, None, client)
            time.sleep(PAUSE)
            return False, None

    while True:
        ok, messages = attempt("receive", lambda: client.receive(a.batch, seconds(a.invisible_ms)))
        for m in messages or []:
            received(m)
            state["received"] += 1
            if a.on_message == "nothing":
                pass
            elif goal == "changed":
                if attempt("change", lambda: client.change_invisible_duration(m, seconds(arg)), id=m.message_id)[0]:
                    emit("changed", id=m.message_id, ts=now_ms())
                    state["changed"] += 1
            elif a.on_message == "ack" or (m.delivery_attempt or 0) >= arg:
                if attempt("ack", lambda: client.ack(m), id=m.message_id)[0]:
                    emit("acked", id=m.message_id, ts=now_ms())
                    state["acked"] += 1
            if a.count > 0 and state[goal] >= a.count:
                finish(0, "done", client, **state)


def push(a, mq, config):
    lock = threading.Lock()
    state = {"received": 0, "succeeded": 0}
    succeeded = set()
    full = threading.Event()
    kind, _, n = a.on_message.partition(":")

    class Listener(mq.MessageListener):
        def consume(self, m):
            ok = kind in ("ack", "slow") or (kind == "fail-until" and (m.delivery_attempt or 0) >= int(n))
            received(m, result="success" if ok else "failure")
            if kind == "slow":
                time.sleep(int(n) / 1000)
            with lock:
                state["received"] += 1
                if ok:
                    succeeded.add(m.message_id)
                    state["succeeded"] = len(succeeded)
                if a.count > 0 and len(succeeded) >= a.count:
                    full.set()
            return mq.ConsumeResult.SUCCESS if ok else mq.ConsumeResult.FAILURE

    def make():
        if a.lite:
            return mq.LitePushConsumer(config(), a.group, a.topic, Listener(), tls_enable=a.tls)
        return mq.PushConsumer(config(), a.group, Listener(), {a.topic: expression(a, mq)}, tls_enable=a.tls)

    client = subscribed(a, start(a, make))
    deadline(a, client, 0, lambda: state)
    full.wait()
    time.sleep(a.linger_ms / 1000)  # the acks of the last messages go out
    finish(0, "done", client, **state)


def main():
    faulthandler.enable()
    a = arguments()
    # The client writes its log below the home directory: give it one of its own.
    logs = os.environ.get("FERROMQ_DRIVER_LOGS") or os.path.join(tempfile.gettempdir(), "ferromq-drivers")
    os.environ["HOME"] = os.path.join(logs, f"python-{os.getpid()}")
    if a.cmd == "version":
        from importlib.metadata import version

        name = "rocketmq-python-client"
        _write("version", {"client": name, "version": version(name)})
        return
    if a.tls:
        if not a.ca:
            finish(4, "unsupported", what="TLS without --ca: this client trusts the system roots only")
        os.environ["GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"] = a.ca
    kind, _, n = a.cmd != "produce" and a.on_message.partition(":") or ("", "", "")
    known = {"simple": r"ack|nothing|change:\d+|ack-after-attempt:\d+", "push": r"ack|fail|fail-until:\d+|slow:\d+"}
    if a.cmd in known and not re.fullmatch(known[a.cmd], a.on_message):
        print(f"driver: --on-message {a.on_message}?", file=sys.stderr)
        os._exit(1)
    import rocketmq as mq

    config = lambda: mq.ClientConfiguration(a.endpoint, mq.Credentials())
    {"produce": produce, "simple": simple, "push": push}[a.cmd](a, mq, config)


main()
