// Driver of the official RocketMQ 5 Java client. Contract: ../README.md

import java.io.Closeable;
import java.io.IOException;
import java.io.InputStream;
import java.io.PrintStream;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.HashSet;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.apache.rocketmq.client.apis.ClientConfiguration;
import org.apache.rocketmq.client.apis.ClientServiceProvider;
import org.apache.rocketmq.client.apis.consumer.ConsumeResult;
import org.apache.rocketmq.client.apis.consumer.FilterExpression;
import org.apache.rocketmq.client.apis.consumer.FilterExpressionType;
import org.apache.rocketmq.client.apis.consumer.LitePushConsumer;
import org.apache.rocketmq.client.apis.consumer.MessageListener;
import org.apache.rocketmq.client.apis.consumer.SimpleConsumer;
import org.apache.rocketmq.client.apis.message.MessageBuilder;
import org.apache.rocketmq.client.apis.message.MessageView;
import org.apache.rocketmq.client.apis.producer.Producer;
import org.apache.rocketmq.client.apis.producer.ProducerBuilder;
import org.apache.rocketmq.client.apis.producer.SendReceipt;
import org.apache.rocketmq.client.apis.producer.Transaction;
import org.apache.rocketmq.client.apis.producer.TransactionResolution;

public final class Driver {
    private static final long PAUSE = 200; // ms between a failure and the next try
    private static final PrintStream OUT = System.out;
    private static final Object LOCK = new Object();
    private static boolean finished;

    private final Args a;
    private final ClientServiceProvider provider = ClientServiceProvider.loadService();

    private Driver(Args a) {
        this.a = a;
    }

    // ---- output

    private static Map<String, Object> fields(Object... pairs) {
        Map<String, Object> f = new LinkedHashMap<>();
        for (int i = 0; i < pairs.length; i += 2) {
            f.put((String) pairs[i], pairs[i + 1]);
        }
        return f;
    }

    private static void write(String event, Map<String, Object> fields) {
        Map<String, Object> line = fields("event", event);
        line.putAll(fields);
        StringBuilder b = new StringBuilder();
        json(b, line);
        byte[] bytes = b.append('\n').toString().getBytes(StandardCharsets.UTF_8);
        OUT.write(bytes, 0, bytes.length);
        OUT.flush();
    }

    private static void emit(String event, Object... pairs) {
        emit(event, fields(pairs));
    }

    private static void emit(String event, Map<String, Object> fields) {
        synchronized (LOCK) {
            if (!finished) {
                write(event, fields);
            }
        }
    }

    private static void json(StringBuilder b, Object v) {
        if (v instanceof Optional<?> o) {
            json(b, o.orElse(null));
        } else if (v == null || v instanceof Number || v instanceof Boolean) {
            b.append(v);
        } else if (v instanceof Map<?, ?> m) {
            String comma = "";
            b.append('{');
            for (Map.Entry<?, ?> e : m.entrySet()) {
                b.append(comma);
                json(b, e.getKey());
                b.append(':');
                json(b, e.getValue());
                comma = ",";
            }
            b.append('}');
        } else if (v instanceof Collection<?> c) {
            String comma = "";
            b.append('[');
            for (Object o : c) {
                b.append(comma);
                json(b, o);
                comma = ",";
            }
            b.append(']');
        } else {
            b.append('"');
            for (char c : v.toString().toCharArray()) {
                if (c == '"' || c == '\\') {
                    b.append('\\').append(c);
                } else if (c < 0x20 || Character.isSurrogate(c)) {
                    b.append(String.format("\\u%04x", (int) c));
                } else {
                    b.append(c);
                }
            }
            b.append('"');
        }
    }

    /** Prints the closing line once, tries to shut the client down for at most 3 s, leaves. */
    private static void finish(int status, String event, Closeable client, Map<String, Object> fields) {
        boolean first;
        synchronized (LOCK) {
            first = !finished;
            if (first && event != null) {
                write(event, fields);
            }
            finished = true;
        }
        if (!first) {
            sleep(Long.MAX_VALUE);
        }
        if (client != null) {
            Thread t = new Thread(() -> {
                try {
                    client.close();
                } catch (Throwable e) {
                    System.err.println("shutdown: " + e);
                }
            });
            t.setDaemon(true);
            t.start();
            try {
                t.join(3000);
            } catch (InterruptedException e) {
                // leave
            }
        }
        Runtime.getRuntime().halt(status);
    }

    private static void sleep(long ms) {
        try {
            Thread.sleep(Math.max(0, ms));
        } catch (InterruptedException e) {
            throw new IllegalStateException(e);
        }
    }

    // ---- errors

    private static final Pattern CODE = Pattern.compile("response-code=(\\d+)");

    /** The exceptions carry the status code in their text only. */
    private static Integer codeOf(Throwable e) {
        for (int depth = 0; e != null && depth < 10; depth++, e = e.getCause()) {
            Matcher m = CODE.matcher(String.valueOf(e.getMessage()));
            if (m.find()) {
                return Integer.valueOf(m.group(1));
            }
        }
        return null;
    }

    private static String textOf(Throwable e) {
        StringBuilder b = new StringBuilder();
        for (int depth = 0; e != null && depth < 10; depth++, e = e.getCause()) {
            String text = e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage();
            if (b.indexOf(text) < 0) {
                b.append(b.isEmpty() ? "" : ": ").append(text);
            }
        }
        return b.toString();
    }

    // ---- command line

    private static final class Args {
        private static final Set<String> FLAGS = Set.of("tls", "keep-going", "sql", "recall");
        private static final Set<String> KNOWN = Set.of(
            "endpoint", "ca", "topic", "count", "timeout", "timeout-ms", "start-timeout-ms", "size", "tag", "key",
            "prop", "message-group", "fifo", "delay-ms", "prefix", "rate", "topic-declare", "group", "filter",
            "on-message", "batch", "invisible-ms", "await-ms", "linger-ms", "transaction", "end-after-ms", "checker",
            "checks", "lite", "priority");
        private final Map<String, List<String>> found = new LinkedHashMap<>();

        Args(List<String> words) {
            for (int i = 0; i < words.size(); i++) {
                String word = words.get(i);
                String[] parts = word.split("=", 2);
                String name = parts[0].startsWith("--") ? parts[0].substring(2) : "";
                String value = parts.length > 1 ? parts[1] : "";
                if (!FLAGS.contains(name)) {
                    if (!KNOWN.contains(name)) {
                        usage(word + "?");
                    }
                    if (parts.length < 2) {
                        if (++i >= words.size()) {
                            usage(word + " needs a value");
                        }
                        value = words.get(i);
                    }
                }
                found.computeIfAbsent(name, n -> new ArrayList<>()).add(value);
            }
        }

        List<String> all(String name) {
            return found.getOrDefault(name, List.of());
        }

        boolean has(String name) {
            return found.containsKey(name);
        }

        String get(String name, String standard) {
            List<String> values = all(name);
            return values.isEmpty() ? standard : values.get(values.size() - 1);
        }

        String need(String name) {
            if (!has(name)) {
                usage("--" + name + " is needed");
            }
            return get(name, null);
        }

        long number(String name, long standard) {
            return Long.parseLong(get(name, Long.toString(standard)));
        }
    }

    private static void usage(String text) {
        System.err.println("driver: " + text);
        Runtime.getRuntime().halt(1);
    }

    // ---- common to all commands

    private ClientConfiguration configuration() {
        return ClientConfiguration.newBuilder().setEndpoints(a.need("endpoint")).enableSsl(a.has("tls")).build();
    }

    private Map<String, FilterExpression> subscriptions() {
        FilterExpressionType type = a.has("sql") ? FilterExpressionType.SQL92 : FilterExpressionType.TAG;
        return Map.of(a.need("topic"), new FilterExpression(a.get("filter", "*"), type));
    }

    /** Starts a client within the start time. */
    private <T> T start(Callable<T> build) {
        CompletableFuture<T> result = new CompletableFuture<>();
        Thread t = new Thread(() -> {
            try {
                result.complete(build.call());
            } catch (Throwable e) {
                result.completeExceptionally(e);
            }
        });
        t.setDaemon(true);
        t.start();
        try {
            T client = result.get(a.number("start-timeout-ms", 30000), TimeUnit.MILLISECONDS);
            emit("ready");
            return client;
        } catch (ExecutionException e) {
            Throwable cause = e.getCause();
            finish(3, "start-error", null, fields("code", codeOf(cause), "message", textOf(cause)));
        } catch (TimeoutException | InterruptedException e) {
            finish(3, "start-error", null, fields("code", null, "message", "start timed out"));
        }
        throw new IllegalStateException();
    }

    /** Counts of a run, for the closing line. */
    private static final class Counts {
        private final Map<String, Object> n = new LinkedHashMap<>();

        Counts(String... names) {
            for (String name : names) {
                n.put(name, 0L);
            }
        }

        synchronized long add(String name) {
            return (Long) n.merge(name, 1L, (x, y) -> (Long) x + (Long) y);
        }

        synchronized Map<String, Object> get(Object... more) {
            Map<String, Object> f = fields(more);
            f.putAll(n);
            return f;
        }
    }

    /** Leaves when the time is over: a goal missed (2), or none was set (withoutCount). */
    private void deadline(Closeable client, Counts counts, int withoutCount) {
        Thread t = new Thread(() -> {
            sleep(a.number("timeout-ms", a.number("timeout", 30000)));
            finish(a.number("count", 0) > 0 ? 2 : withoutCount, "done", client, counts.get("reason", "timeout"));
        });
        t.setDaemon(true);
        t.start();
    }

    /** The body up to the padding. */
    private static String text(MessageView m) {
        ByteBuffer buffer = m.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        return new String(body, StandardCharsets.UTF_8).split("\\.", 2)[0];
    }

    private static void received(MessageView m, Object... more) {
        ByteBuffer buffer = m.getBody();
        byte[] body = new byte[buffer.remaining()];
        buffer.get(body);
        int end = 0;
        while (end < body.length && body[end] != '.') {
            end++;
        }
        Map<String, Object> f = fields(
            "id", m.getMessageId().toString(), "body", new String(body, 0, end, StandardCharsets.UTF_8),
            "tag", m.getTag(), "keys", m.getKeys(), "properties", m.getProperties(),
            "attempt", m.getDeliveryAttempt(), "topic", m.getTopic(), "len", body.length,
            "group", m.getMessageGroup(), "ts", System.currentTimeMillis());
        f.putAll(fields(more));
        emit("received", f);
    }

    // ---- commands

    /** Answers the server's checks. */
    private TransactionResolution check(MessageView m, Counts counts, CountDownLatch checked) {
        String name = a.get("checker", "unknown");
        emit("checked", "id", m.getMessageId().toString(), "body", text(m), "resolution", name,
            "ts", System.currentTimeMillis());
        counts.add("checked");
        checked.countDown();
        return TransactionResolution.valueOf(name.toUpperCase());
    }

    private void end(Producer producer, Transaction transaction, String id, Counts counts) {
        sleep(a.number("end-after-ms", 0));
        String name = a.get("transaction", "");
        Call end = () -> {
            if (name.equals("commit")) {
                transaction.commit();
            } else {
                transaction.rollback();
            }
        };
        while (!attempt("end", id, producer, end)) {
            // again
        }
        emit("ended", "id", id, "resolution", name, "ts", System.currentTimeMillis());
        counts.add("ended");
    }

    private void produce() throws InterruptedException {
        String topic = a.need("topic");
        Counts counts = new Counts("sent", "ended", "checked");
        CountDownLatch checked = new CountDownLatch((int) a.number("checks", 0));
        Producer producer = start(() -> {
            ProducerBuilder builder = provider.newProducerBuilder().setClientConfiguration(configuration());
            if (a.get("topic-declare", "yes").equals("yes")) {
                builder.setTopics(topic);
            }
            if (a.has("transaction") || a.has("checker")) {
                builder.setTransactionChecker(m -> check(m, counts, checked));
            }
            return builder.build();
        });
        deadline(producer, counts, 2);
        long count = a.number("count", 1);
        int size = (int) a.number("size", 0);
        double rate = Double.parseDouble(a.get("rate", "0"));
        long t0 = System.nanoTime();
        for (long i = 0; i < count; i++) {
            if (rate > 0) {
                sleep((long) (i * 1000 / rate) - (System.nanoTime() - t0) / 1_000_000);
            }
            String text = a.get("prefix", "m") + i;
            byte[] plain = text.getBytes(StandardCharsets.UTF_8);
            byte[] body = Arrays.copyOf(plain, Math.max(size, plain.length));
            Arrays.fill(body, plain.length, body.length, (byte) '.');
            Transaction transaction = null;
            String id;
            while (true) {
                try {
                    MessageBuilder b = provider.newMessageBuilder().setTopic(topic).setBody(body);
                    if (a.has("tag")) {
                        b.setTag(a.get("tag", ""));
                    }
                    if (a.has("key")) {
                        b.setKeys(a.all("key").toArray(new String[0]));
                    }
                    for (String kv : a.all("prop")) {
                        String[] pair = (kv + "=").split("=", 2);
                        b.addProperty(pair[0], kv.contains("=") ? kv.substring(pair[0].length() + 1) : "");
                    }
                    if (a.has("message-group") || a.has("fifo")) {
                        b.setMessageGroup(a.get("message-group", a.get("fifo", "")));
                    }
                    if (a.has("lite")) {
                        b.setLiteTopic(a.get("lite", ""));
                    }
                    if (a.has("priority")) {
                        b.setPriority((int) a.number("priority", 0));
                    }
                    if (a.has("delay-ms")) {
                        b.setDeliveryTimestamp(System.currentTimeMillis() + a.number("delay-ms", 0));
                    }
                    SendReceipt receipt;
                    if (a.has("transaction")) {
                        transaction = producer.beginTransaction();
                        receipt = producer.send(b.build(), transaction);
                    } else {
                        receipt = producer.send(b.build());
                    }
                    id = receipt.getMessageId().toString();
                    emit("sent", "i", i, "id", id, "body", text, "ts", System.currentTimeMillis());
                    counts.add("sent");
                    if (a.has("recall")) {
                        String handle = receipt.getRecallHandle();
                        attempt("recall", id, producer, () -> {
                            String recalled = producer.recallMessage(topic, handle).getMessageId().toString();
                            emit("recalled", "id", recalled, "ts", System.currentTimeMillis());
                        });
                    }
                    break;
                } catch (Throwable e) {
                    emit("error", "i", i, "code", codeOf(e), "message", textOf(e), "op", "send");
                    if (!a.has("keep-going")) {
                        finish(1, null, producer, null);
                    }
                    sleep(PAUSE);
                }
            }
            if (transaction != null && !a.get("transaction", "").equals("leave")) {
                end(producer, transaction, id, counts);
            }
        }
        if (checked.getCount() > 0 || a.number("checks", 0) > 0) {
            checked.await();
            sleep(1000); // the answer to the last check goes out
        }
        finish(0, "done", producer, counts.get());
    }

    private interface Call {
        void run() throws Exception;
    }

    /** Tries a call; prints its failure and, without --keep-going, leaves. */
    private boolean attempt(String op, String id, Closeable client, Call call) {
        try {
            call.run();
            return true;
        } catch (Throwable e) {
            Map<String, Object> f = fields("code", codeOf(e), "message", textOf(e), "op", op);
            if (id != null) {
                f.put("id", id);
            }
            emit("error", f);
            if (!a.has("keep-going")) {
                finish(1, null, client, null);
            }
            sleep(PAUSE);
            return false;
        }
    }

    private void simple() {
        SimpleConsumer consumer = start(() -> provider.newSimpleConsumerBuilder()
            .setClientConfiguration(configuration())
            .setConsumerGroup(a.need("group"))
            .setAwaitDuration(Duration.ofMillis(a.number("await-ms", 5000)))
            .setSubscriptionExpressions(subscriptions())
            .build());
        Counts counts = new Counts("received", "acked", "changed");
        deadline(consumer, counts, 0);
        String[] action = a.get("on-message", "ack").split(":");
        long n = action.length > 1 ? Long.parseLong(action[1]) : 0;
        String goal = Map.of("nothing", "received", "change", "changed").getOrDefault(action[0], "acked");
        int batch = (int) a.number("batch", 16);
        Duration invisible = Duration.ofMillis(a.number("invisible-ms", 10000));
        while (true) {
            List<MessageView> messages = new ArrayList<>();
            attempt("receive", null, consumer, () -> messages.addAll(consumer.receive(batch, invisible)));
            for (MessageView m : messages) {
                String id = m.getMessageId().toString();
                received(m);
                long total = counts.add("received");
                if (!goal.equals("received")) {
                    total = 0;
                }
                if (action[0].equals("change")) {
                    Call change = () -> consumer.changeInvisibleDuration(m, Duration.ofMillis(n));
                    if (attempt("change", id, consumer, change)) {
                        emit("changed", "id", id, "ts", System.currentTimeMillis());
                        total = counts.add("changed");
                    }
                } else if (action[0].equals("ack")
                    || action[0].equals("ack-after-attempt") && m.getDeliveryAttempt() >= n) {
                    if (attempt("ack", id, consumer, () -> consumer.ack(m))) {
                        emit("acked", "id", id, "ts", System.currentTimeMillis());
                        total = counts.add("acked");
                    }
                }
                if (total > 0 && total == a.number("count", 0)) {
                    finish(0, "done", consumer, counts.get());
                }
            }
        }
    }

    private void push() throws InterruptedException {
        String[] action = a.get("on-message", "ack").split(":");
        long n = action.length > 1 ? Long.parseLong(action[1]) : 0;
        Counts counts = new Counts("received", "succeeded");
        CountDownLatch full = new CountDownLatch(1);
        Set<String> succeeded = new HashSet<>();
        MessageListener listener = m -> {
            boolean ok = action[0].equals("ack") || action[0].equals("slow")
                || action[0].equals("fail-until") && m.getDeliveryAttempt() >= n;
            received(m, "result", ok ? "success" : "failure");
            counts.add("received");
            if (action[0].equals("slow")) {
                sleep(n);
            }
            synchronized (succeeded) {
                if (ok && succeeded.add(m.getMessageId().toString())
                    && counts.add("succeeded") == a.number("count", 0)) {
                    full.countDown();
                }
            }
            return ok ? ConsumeResult.SUCCESS : ConsumeResult.FAILURE;
        };
        Closeable consumer = a.has("lite") ? litePush(listener) : start(() -> provider.newPushConsumerBuilder()
            .setClientConfiguration(configuration())
            .setConsumerGroup(a.need("group"))
            .setSubscriptionExpressions(subscriptions())
            .setMessageListener(listener)
            .build());
        deadline(consumer, counts, 0);
        full.await();
        sleep(a.number("linger-ms", 1000)); // the acks of the last messages go out
        finish(0, "done", consumer, counts.get());
    }

    private Closeable litePush(MessageListener listener) {
        LitePushConsumer consumer = start(() -> provider.newLitePushConsumerBuilder()
            .setClientConfiguration(configuration())
            .setConsumerGroup(a.need("group"))
            .bindTopic(a.need("topic"))
            .setMessageListener(listener)
            .build());
        for (String name : a.all("lite")) {
            try {
                consumer.subscribeLite(name);
            } catch (Exception e) {
                emit("error", "code", codeOf(e), "message", textOf(e), "op", "subscribe");
                finish(1, null, consumer, Map.of());
            }
            emit("subscribed", "lite", name);
        }
        return consumer;
    }

    private static String version() throws IOException {
        Properties p = new Properties();
        try (InputStream in = Driver.class.getResourceAsStream(
            "/META-INF/maven/org.apache.rocketmq/rocketmq-client-java/pom.properties")) {
            p.load(in);
        }
        return p.getProperty("version");
    }

    public static void main(String[] args) throws Exception {
        List<String> words = Arrays.asList(args);
        if (words.isEmpty()) {
            usage("version | produce | simple | push");
        }
        Args a = new Args(words.subList(1, words.size()));
        String logs = System.getenv("FERROMQ_DRIVER_LOGS");
        Path root = logs == null ? Path.of(System.getProperty("java.io.tmpdir"), "ferromq-drivers") : Path.of(logs);
        System.setProperty("rocketmq.log.root", root.resolve("java-" + ProcessHandle.current().pid()).toString());
        System.setOut(System.err); // whatever else prints stays off the output of the driver
        String onMessage = a.get("on-message", "ack");
        switch (words.get(0)) {
            case "version" -> {
                write("version", fields("client", "rocketmq-client-java", "version", version()));
                Runtime.getRuntime().halt(0);
            }
            case "produce" -> new Driver(a).produce();
            case "simple" -> {
                if (!onMessage.matches("ack|nothing|change:\\d+|ack-after-attempt:\\d+")) {
                    usage("--on-message " + onMessage + "?");
                }
                new Driver(a).simple();
            }
            case "push" -> {
                if (!onMessage.matches("ack|fail|fail-until:\\d+|slow:\\d+")) {
                    usage("--on-message " + onMessage + "?");
                }
                new Driver(a).push();
            }
            default -> usage("unknown command " + words.get(0));
        }
    }
}
