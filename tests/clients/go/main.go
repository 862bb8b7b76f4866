// Driver of the official RocketMQ 5 Go client. Contract: ../README.md
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	rmq "github.com/apache/rocketmq-clients/golang/v5"
	"github.com/apache/rocketmq-clients/golang/v5/credentials"
	v2 "github.com/apache/rocketmq-clients/golang/v5/protocol/v2"
)

const (
	module = "github.com/apache/rocketmq-clients/golang/v5"
	pause  = 200 * time.Millisecond // between a failure and the next try
)

type fields map[string]any

var (
	out      sync.Mutex
	finished bool
)

func write(event string, f fields) {
	line := fields{"event": event}
	for k, v := range f {
		line[k] = v
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(line); err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		return
	}
	os.Stdout.Write(b.Bytes())
}

func emit(event string, f fields) {
	out.Lock()
	defer out.Unlock()
	if !finished {
		write(event, f)
	}
}

// finish prints the closing line once, tries to shut the client down for at most 3 s, and leaves.
func finish(status int, event string, stop func() error, f fields) {
	out.Lock()
	if finished {
		out.Unlock()
		select {}
	}
	if event != "" {
		write(event, f)
	}
	finished = true
	out.Unlock()
	if stop != nil {
		done := make(chan struct{})
		go func() {
			defer close(done)
			defer func() { _ = recover() }()
			_ = stop()
		}()
		select {
		case <-done:
		case <-time.After(3 * time.Second):
		}
	}
	os.Exit(status)
}

var codeInText = regexp.MustCompile(`CODE: ([A-Z_]+), MESSAGE`)

// codeOf finds the numeric status code: in the error chain, or (the client formats some errors
// with %v) by its name in the text.
func codeOf(err error) any {
	var status *rmq.ErrRpcStatus
	if errors.As(err, &status) {
		return status.GetCode()
	}
	if m := codeInText.FindStringSubmatch(err.Error()); m != nil {
		if code, ok := v2.Code_value[m[1]]; ok {
			return code
		}
	}
	return nil
}

func nowMs() int64 { return time.Now().UnixMilli() }

func orNil(s *string) any {
	if s == nil {
		return nil
	}
	return *s
}

func received(m *rmq.MessageView, more fields) {
	body := m.GetBody()
	text, _, _ := bytes.Cut(body, []byte("."))
	keys, properties := m.GetKeys(), m.GetProperties()
	if keys == nil {
		keys = []string{}
	}
	if properties == nil {
		properties = map[string]string{}
	}
	f := fields{
		"id": m.GetMessageId(), "body": strings.ToValidUTF8(string(text), "\uFFFD"), "tag": orNil(m.GetTag()), "keys": keys,
		"properties": properties, "attempt": m.GetDeliveryAttempt(), "topic": m.GetTopic(), "len": len(body),
		"group": orNil(m.GetMessageGroup()), "ts": nowMs(),
	}
	for k, v := range more {
		f[k] = v
	}
	emit("received", f)
}

type list []string

func (l *list) String() string     { return strings.Join(*l, ",") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

type arguments struct {
	endpoint, ca, topic, tag, messageGroup, prefix, declare, group, filter, onMessage string
	transaction, checker                                                              string
	tls, keepGoing, sql, recall                                                       bool
	count, size, batch, checks, priority                                              int
	timeout, startTimeout, delay, invisible, await, linger, endAfter                  int64
	rate                                                                              float64
	keys, props, lite                                                                 list
	hasTag, hasGroup, hasDelay                                                        bool
}

func parse(cmd string, rest []string) *arguments {
	a := &arguments{}
	s := flag.NewFlagSet(cmd, flag.ContinueOnError)
	s.StringVar(&a.endpoint, "endpoint", "", "")
	s.BoolVar(&a.tls, "tls", false, "")
	s.StringVar(&a.ca, "ca", "", "not needed: this client trusts any certificate")
	s.StringVar(&a.topic, "topic", "", "")
	count := 0
	if cmd == "produce" {
		count = 1
	}
	s.IntVar(&a.count, "count", count, "")
	s.Int64Var(&a.timeout, "timeout-ms", 30000, "")
	s.Int64Var(&a.timeout, "timeout", 30000, "")
	s.Int64Var(&a.startTimeout, "start-timeout-ms", 30000, "")
	s.BoolVar(&a.recall, "recall", false, "")
	s.BoolVar(&a.keepGoing, "keep-going", false, "")
	if cmd == "produce" {
		s.IntVar(&a.size, "size", 0, "")
		s.StringVar(&a.tag, "tag", "", "")
		s.Var(&a.keys, "key", "")
		s.Var(&a.props, "prop", "")
		s.StringVar(&a.messageGroup, "message-group", "", "")
		s.StringVar(&a.messageGroup, "fifo", "", "")
		s.Int64Var(&a.delay, "delay-ms", 0, "")
		s.IntVar(&a.priority, "priority", -1, "")
		s.StringVar(&a.prefix, "prefix", "m", "")
		s.Float64Var(&a.rate, "rate", 0, "")
		s.StringVar(&a.declare, "topic-declare", "yes", "")
		s.Var(&a.lite, "lite", "")
		s.StringVar(&a.transaction, "transaction", "", "")
		s.Int64Var(&a.endAfter, "end-after-ms", 0, "")
		s.StringVar(&a.checker, "checker", "", "")
		s.IntVar(&a.checks, "checks", 0, "")
	} else {
		s.StringVar(&a.group, "group", "", "")
		s.StringVar(&a.filter, "filter", "*", "")
		s.BoolVar(&a.sql, "sql", false, "")
		s.StringVar(&a.onMessage, "on-message", "ack", "")
	}
	if cmd == "simple" {
		s.IntVar(&a.batch, "batch", 16, "")
		s.Int64Var(&a.invisible, "invisible-ms", 10000, "")
		s.Int64Var(&a.await, "await-ms", 5000, "")
	}
	if cmd == "push" {
		s.Int64Var(&a.linger, "linger-ms", 1000, "")
		s.Var(&a.lite, "lite", "")
	}
	if err := s.Parse(rest); err != nil || s.NArg() > 0 {
		usage(fmt.Sprint(s.Args()))
	}
	s.Visit(func(f *flag.Flag) {
		switch f.Name {
		case "tag":
			a.hasTag = true
		case "message-group", "fifo":
			a.hasGroup = true
		case "delay-ms":
			a.hasDelay = true
		}
	})
	if a.endpoint == "" || a.topic == "" {
		usage("--endpoint and --topic are needed")
	}
	known := map[string]string{
		"produce": `^$`, "simple": `^(ack|nothing|change:\d+|ack-after-attempt:\d+)$`, "push": `^(ack|fail|fail-until:\d+|slow:\d+)$`,
	}[cmd]
	if !regexp.MustCompile(known).MatchString(a.onMessage) {
		usage("--on-message " + a.onMessage + "?")
	}
	if cmd != "produce" && a.group == "" {
		usage("--group is needed")
	}
	return a
}

func usage(text string) {
	fmt.Fprintln(os.Stderr, "driver:", text)
	os.Exit(1)
}

func ms(n int64) time.Duration { return time.Duration(n) * time.Millisecond }

// start runs the start of a client within the start time.
func (a *arguments) start(f func() error) {
	result := make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				result <- fmt.Errorf("client panicked: %v", p)
			}
		}()
		result <- f()
	}()
	select {
	case err := <-result:
		if err != nil {
			finish(3, "start-error", nil, fields{"code": codeOf(err), "message": err.Error()})
		}
	case <-time.After(ms(a.startTimeout)):
		finish(3, "start-error", nil, fields{"code": nil, "message": "start timed out"})
	}
	emit("ready", nil)
}

// counters go into the closing line.
type counters struct {
	sync.Mutex
	n fields
}

func (c *counters) add(name string) int {
	c.Lock()
	defer c.Unlock()
	v := c.n[name].(int) + 1
	c.n[name] = v
	return v
}

func (c *counters) get(more fields) fields {
	c.Lock()
	defer c.Unlock()
	f := fields{}
	for k, v := range c.n {
		f[k] = v
	}
	for k, v := range more {
		f[k] = v
	}
	return f
}

// deadline leaves when the time is over: a goal missed (2), or none was set (withoutCount).
func (a *arguments) deadline(c *counters, withoutCount int, stop func() error) {
	go func() {
		time.Sleep(ms(a.timeout))
		status := withoutCount
		if a.count > 0 {
			status = 2
		}
		finish(status, "done", stop, c.get(fields{"reason": "timeout"}))
	}()
}

func (a *arguments) config() *rmq.Config {
	return &rmq.Config{Endpoint: a.endpoint, ConsumerGroup: a.group, Credentials: &credentials.SessionCredentials{}}
}

func (a *arguments) subscriptions() map[string]*rmq.FilterExpression {
	kind := rmq.TAG
	if a.sql {
		kind = rmq.SQL92
	}
	return map[string]*rmq.FilterExpression{a.topic: rmq.NewFilterExpressionWithType(a.filter, kind)}
}

func produce(a *arguments) {
	if a.declare != "yes" {
		// Start waits for settings, and only the route of a declared topic opens the stream they come on.
		write("unsupported", fields{"what": "producer without declared topics: this client never starts"})
		os.Exit(4)
	}
	c := &counters{n: fields{"sent": 0, "ended": 0, "checked": 0}}
	allChecked := make(chan struct{})
	options := []rmq.ProducerOption{rmq.WithTopics(a.topic)}
	if a.transaction != "" || a.checker != "" {
		options = append(options, rmq.WithTransactionChecker(a.checking(c, allChecked)))
	}
	var p rmq.Producer
	a.start(func() (err error) {
		if p, err = rmq.NewProducer(a.config(), options...); err != nil {
			return err
		}
		return p.Start()
	})
	a.deadline(c, 2, p.GracefulStop)
	t0 := time.Now()
	for i := 0; i < a.count; i++ {
		if a.rate > 0 {
			time.Sleep(time.Until(t0.Add(time.Duration(float64(i) / a.rate * float64(time.Second)))))
		}
		text := a.prefix + strconv.Itoa(i)
		body := []byte(text)
		if len(body) < a.size {
			body = append(body, bytes.Repeat([]byte("."), a.size-len(body))...)
		}
		var transaction rmq.Transaction
		var id string
		for {
			m := &rmq.Message{Topic: a.topic, Body: body}
			if a.hasTag {
				m.SetTag(a.tag)
			}
			if len(a.keys) > 0 {
				m.SetKeys(a.keys...)
			}
			for _, kv := range a.props {
				k, v, _ := strings.Cut(kv, "=")
				m.AddProperty(k, v)
			}
			if a.hasGroup {
				m.SetMessageGroup(a.messageGroup)
			}
			if len(a.lite) > 0 {
				m.SetLiteTopic(a.lite[0])
			}
			if a.priority >= 0 {
				if err := m.SetPriority(int32(a.priority)); err != nil {
					usage(err.Error())
				}
			}
			if a.hasDelay {
				m.SetDelayTimestamp(time.Now().Add(ms(a.delay)))
			}
			var receipts []*rmq.SendReceipt
			var err error
			if a.transaction == "" {
				receipts, err = p.Send(context.Background(), m)
			} else {
				transaction = p.BeginTransaction()
				receipts, err = p.SendWithTransaction(context.Background(), m, transaction)
			}
			if err == nil && len(receipts) != 1 {
				err = fmt.Errorf("%d receipts", len(receipts))
			}
			if err == nil {
				id = receipts[0].MessageID
				emit("sent", fields{"i": i, "id": id, "body": text, "ts": nowMs()})
				c.add("sent")
				if a.recall {
					id, err := p.Recall(context.Background(), a.topic, receipts[0].RecallHandle)
					if err != nil {
						emit("error", fields{"i": i, "code": codeOf(err), "message": err.Error(), "op": "recall"})
						finish(1, "", p.GracefulStop, nil)
					}
					emit("recalled", fields{"id": id, "ts": nowMs()})
				}
				break
			}
			emit("error", fields{"i": i, "code": codeOf(err), "message": err.Error(), "op": "send"})
			if !a.keepGoing {
				finish(1, "", p.GracefulStop, nil)
			}
			time.Sleep(pause)
		}
		if a.transaction == "commit" || a.transaction == "rollback" {
			time.Sleep(ms(a.endAfter))
			a.end(p, transaction, id)
			c.add("ended")
		}
	}
	if a.checks > 0 {
		<-allChecked
		time.Sleep(time.Second) // the answer to the last check goes out
	}
	finish(0, "done", p.GracefulStop, c.get(nil))
}

// checking answers the server's checks.
func (a *arguments) checking(c *counters, allChecked chan struct{}) *rmq.TransactionChecker {
	return &rmq.TransactionChecker{Check: func(m *rmq.MessageView) rmq.TransactionResolution {
		name := a.checker
		if name == "" {
			name = "unknown"
		}
		text, _, _ := bytes.Cut(m.GetBody(), []byte("."))
		emit("checked", fields{"id": m.GetMessageId(), "body": string(text), "resolution": name, "ts": nowMs()})
		if c.add("checked") == a.checks {
			close(allChecked)
		}
		return map[string]rmq.TransactionResolution{"commit": rmq.COMMIT, "rollback": rmq.ROLLBACK}[name]
	}}
}

func (a *arguments) end(p rmq.Producer, t rmq.Transaction, id string) {
	for {
		end := t.Commit
		if a.transaction == "rollback" {
			end = t.RollBack
		}
		err := end()
		if err == nil {
			emit("ended", fields{"id": id, "resolution": a.transaction, "ts": nowMs()})
			return
		}
		emit("error", fields{"id": id, "code": codeOf(err), "message": err.Error(), "op": "end"})
		if !a.keepGoing {
			finish(1, "", p.GracefulStop, nil)
		}
		time.Sleep(pause)
	}
}

func simple(a *arguments) {
	var s rmq.SimpleConsumer
	a.start(func() (err error) {
		s, err = rmq.NewSimpleConsumer(a.config(), rmq.WithSimpleAwaitDuration(ms(a.await)),
			rmq.WithSimpleSubscriptionExpressions(a.subscriptions()))
		if err != nil {
			return err
		}
		return s.Start()
	})
	c := &counters{n: fields{"received": 0, "acked": 0, "changed": 0}}
	kind, arg, _ := strings.Cut(a.onMessage, ":")
	n, _ := strconv.ParseInt(arg, 10, 64)
	goal := map[string]string{"nothing": "received", "change": "changed"}[kind]
	if goal == "" {
		goal = "acked"
	}
	a.deadline(c, 0, s.GracefulStop)
	failed := func(op, id string, err error) {
		f := fields{"code": codeOf(err), "message": err.Error(), "op": op}
		if id != "" {
			f["id"] = id
		}
		emit("error", f)
		if !a.keepGoing {
			finish(1, "", s.GracefulStop, nil)
		}
		time.Sleep(pause)
	}
	for {
		messages, err := s.Receive(context.Background(), int32(a.batch), ms(a.invisible))
		// This client reports an empty poll as an error.
		if err != nil && codeOf(err) != int32(v2.Code_MESSAGE_NOT_FOUND) {
			failed("receive", "", err)
		}
		for _, m := range messages {
			id := m.GetMessageId()
			received(m, nil)
			total := c.add("received")
			switch {
			case kind == "change":
				total = 0
				if err := s.ChangeInvisibleDuration(m, ms(n)); err != nil {
					failed("change", id, err)
				} else {
					emit("changed", fields{"id": id, "ts": nowMs()})
					total = c.add("changed")
				}
			case kind == "ack", kind == "ack-after-attempt" && int64(m.GetDeliveryAttempt()) >= n:
				total = 0
				if err := s.Ack(context.Background(), m); err != nil {
					failed("ack", id, err)
				} else {
					emit("acked", fields{"id": id, "ts": nowMs()})
					total = c.add("acked")
				}
			case goal != "received":
				total = 0
			}
			if a.count > 0 && total >= a.count {
				finish(0, "done", s.GracefulStop, c.get(nil))
			}
		}
	}
}

func push(a *arguments) {
	c := &counters{n: fields{"received": 0, "succeeded": 0}}
	kind, arg, _ := strings.Cut(a.onMessage, ":")
	n, _ := strconv.ParseInt(arg, 10, 64)
	var lock sync.Mutex
	succeeded := map[string]bool{}
	full := make(chan struct{})
	consume := func(m *rmq.MessageView) rmq.ConsumerResult {
		ok := kind == "ack" || kind == "slow" || kind == "fail-until" && int64(m.GetDeliveryAttempt()) >= n
		result := map[bool]string{true: "success", false: "failure"}[ok]
		received(m, fields{"result": result})
		c.add("received")
		if !ok {
			return rmq.FAILURE
		}
		if kind == "slow" {
			time.Sleep(ms(n))
		}
		lock.Lock()
		defer lock.Unlock()
		if !succeeded[m.GetMessageId()] {
			succeeded[m.GetMessageId()] = true
			if c.add("succeeded") == a.count {
				close(full)
			}
		}
		return rmq.SUCCESS
	}
	var p rmq.PushConsumer
	var lite rmq.LitePushConsumer
	listener := rmq.WithPushMessageListener(&rmq.FuncMessageListener{Consume: consume})
	a.start(func() (err error) {
		if len(a.lite) > 0 {
			lite, err = rmq.NewLitePushConsumer(a.config(), rmq.NewLitePushConsumerConfig(a.topic, 30*time.Second), listener)
			p = lite
		} else {
			p, err = rmq.NewPushConsumer(a.config(), rmq.WithPushSubscriptionExpressions(a.subscriptions()), listener)
		}
		if err != nil {
			return err
		}
		return p.Start()
	})
	for _, name := range a.lite {
		if err := lite.SubscribeLite(name); err != nil {
			emit("error", fields{"code": codeOf(err), "message": err.Error(), "op": "subscribe"})
			finish(1, "", p.GracefulStop, nil)
		}
		emit("subscribed", fields{"lite": name})
	}
	a.deadline(c, 0, p.GracefulStop)
	<-full
	time.Sleep(ms(a.linger)) // the acks of the last messages go out
	finish(0, "done", p.GracefulStop, c.get(nil))
}

func main() {
	commands := map[string]func(*arguments){"produce": produce, "simple": simple, "push": push}
	if len(os.Args) < 2 {
		usage("version | produce | simple | push")
	}
	cmd := os.Args[1]
	if cmd == "version" {
		version := "?"
		if info, ok := debug.ReadBuildInfo(); ok {
			for _, d := range info.Deps {
				if d.Path == module {
					version = strings.TrimPrefix(d.Version, "v")
				}
			}
		}
		write("version", fields{"client": module, "version": version})
		return
	}
	run, ok := commands[cmd]
	if !ok {
		usage("unknown command " + cmd)
	}
	a := parse(cmd, os.Args[2:])
	logs := os.Getenv("FERROMQ_DRIVER_LOGS")
	if logs == "" {
		logs = filepath.Join(os.TempDir(), "ferromq-drivers")
	}
	os.Setenv(rmq.CLIENT_LOG_ROOT, logs)
	os.Setenv(rmq.CLIENT_LOG_FILENAME, fmt.Sprintf("go-%d.log", os.Getpid()))
	os.Unsetenv(rmq.ENABLE_CONSOLE_APPENDER)
	rmq.ResetLogger()
	rmq.EnableSsl = a.tls
	run(a)
}
