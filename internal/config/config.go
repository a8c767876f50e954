// Package config is the one place where settings come from: defaults, a YAML
// file, the environment, flags, each over the one before. What comes out is
// validated as a whole, all mistakes reported at once, by path.
package config

import (
	"log/slog"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/fault"
	"rollcall/internal/grid"
)

// Profile is which of two sets of limits and refusals is in force.
type Profile string

// The profiles.
const (
	Open  Profile = "open"  // everything, limits set by the operator
	Azure Profile = "azure" // the documented service's limits, refusals and coalescing
)

// Config is everything that can be set.
type Config struct {
	Data    string  `yaml:"data"`    // directory of everything durable
	Profile Profile `yaml:"profile"` // open or azure
	Node    string  `yaml:"node"`    // name of this machine in the ledger; default "node1"

	Listen   Listen            `yaml:"listen"`
	TLS      TLS               `yaml:"tls"`
	Access   Access            `yaml:"access"`
	Resource Resource          `yaml:"resource"`
	MQTT     MQTT              `yaml:"mqtt"`
	Ledger   Ledger            `yaml:"ledger"`
	Delivery delivery.Settings `yaml:"delivery"`
	Webhook  Webhook           `yaml:"webhook"`
	// Subscriptions are the bounds of event subscriptions and the timing of
	// the handshakes with their endpoints.
	Subscriptions grid.Settings `yaml:"subscriptions"`
	Storage       Storage       `yaml:"storage"`
	Log           Log           `yaml:"log"`
	ReadyFile     string        `yaml:"readyFile"` // written once everything listens; empty: none
	// ShutdownTimeout bounds an orderly shutdown as a whole. Default 15s.
	ShutdownTimeout time.Duration `yaml:"shutdownTimeout"`
}

// Listen is where to listen. "localhost" stands for 127.0.0.1 and ::1, port 0
// for one that is free. An empty list turns a kind of listener off.
type Listen struct {
	MQTT  []string `yaml:"mqtt"`  // default localhost:1883; none under azure
	MQTTS []string `yaml:"mqtts"` // default localhost:8883
	HTTP  []string `yaml:"http"`  // default localhost:8080
	HTTPS []string `yaml:"https"` // default localhost:8443
}

// TLS is which certificate the listeners present.
type TLS struct {
	Cert string `yaml:"cert"` // PEM file, leaf first; empty: a certificate of the local CA
	Key  string `yaml:"key"`  // PEM file that others cannot write
	// KeyType is that of the local certificate's key: ecdsa, rsa, or both, which
	// is the default: clients get what they can use.
	KeyType string   `yaml:"keyType"`
	Names   []string `yaml:"names"` // further host names and addresses of the local certificate
}

// Access is who may do what.
type Access struct {
	Anonymous string `yaml:"anonymous"` // off, loopback (default) or all
	AllowAll  bool   `yaml:"allowAll"`  // let MQTT clients publish and subscribe anywhere on listeners beyond loopback
	NoAuth    bool   `yaml:"noAuth"`    // no token for the control plane; loopback only
	DevKeys   bool   `yaml:"devKeys"`   // well-known keys instead of random ones; loopback only
	// Hosts are further names that browsers and clients may use for us.
	Hosts []string `yaml:"hosts"`
	// Origins are those whose pages may connect to MQTT over WebSocket, such as
	// https://app.example.org, or "*" for all. Other pages than ours may not.
	Origins []string `yaml:"origins"`
	// BehindProxy: a proxy stands in front of every listener, so that no peer
	// counts as being on this machine.
	BehindProxy bool `yaml:"behindProxy"`
	// PasswordsOverPlaintext admits passwords on plain listeners beyond loopback.
	PasswordsOverPlaintext bool `yaml:"passwordsOverPlaintext"`
	// AuthenticationNameSources are where else than the user name a
	// certificate client's authentication name may be: ClientCertificateSubject,
	// …Dns, …Uri, …Ip, …Email, tried in order.
	AuthenticationNameSources []string `yaml:"authenticationNameSources"`
}

// Resource is what the resource ids are made of.
type Resource struct {
	Subscription string `yaml:"subscription"` // default: zeros
	Group        string `yaml:"group"`        // default rollcall
	Namespace    string `yaml:"namespace"`    // default "default"
	Location     string `yaml:"location"`     // default "local"
}

// NamespaceID is the resource id of the namespace.
func (r Resource) NamespaceID() string {
	return "/subscriptions/" + r.Subscription + "/resourceGroups/" + r.Group +
		"/providers/Microsoft.EventGrid/namespaces/" + r.Namespace
}

// MQTT is the broker's limits. Under azure the defaults are those that the
// service documents.
type MQTT struct {
	MaxConnections   int           `yaml:"maxConnections"`   // default 100,000
	ConnectTimeout   time.Duration `yaml:"connectTimeout"`   // handshake and CONNECT each; default 10s
	WriteTimeout     time.Duration `yaml:"writeTimeout"`     // default 30s
	MaxPacketSize    int           `yaml:"maxPacketSize"`    // bytes; default 1 MiB; azure: 524,288
	MaxKeepAlive     int           `yaml:"maxKeepAlive"`     // seconds; 0: as clients ask; azure: 1160
	ReceiveMaximum   int           `yaml:"receiveMaximum"`   // default 1000
	TopicAliases     int           `yaml:"topicAliases"`     // that a client may set; default 10
	ServerAliases    int           `yaml:"serverAliases"`    // that are set for a client which accepts some; default 10; azure: 0
	MaxSessionExpiry time.Duration `yaml:"maxSessionExpiry"` // whole seconds; 0: no bound; azure: 1h, at most 8h
	MaxWillDelay     time.Duration `yaml:"maxWillDelay"`     // whole seconds; 0: no bound; azure: 5m
	Loops            int           `yaml:"loops"`            // event loops for plain TCP, on Linux; 0: one per core; -1: none
	MaxClientID      int           `yaml:"maxClientId"`      // bytes; default 512; azure: 128
	MaxTopicBytes    int           `yaml:"maxTopicBytes"`    // 0: 65,535; azure: 256
	MaxTopicLevels   int           `yaml:"maxTopicLevels"`   // default 128; azure: 15
	MaxSubscriptions int           `yaml:"maxSubscriptions"` // of one session; default 10,000; 0: no bound; azure: 50
	// MaxSubscriptionBytes and SubscriptionBytes bound the memory, as it is
	// estimated, that the subscriptions of one session take, and all.
	MaxSubscriptionBytes int   `yaml:"maxSubscriptionBytes"` // default 16 MiB
	SubscriptionBytes    int64 `yaml:"subscriptionBytes"`    // default 2 GiB
	MaxMatches           int   `yaml:"maxMatches"`           // subscriptions of one client that match one topic; default 256
	MaxInflight          int   `yaml:"maxInflight"`          // unacknowledged messages to one client; default 100
	QueueMessages        int   `yaml:"queueMessages"`        // waiting for one client, 1 to 65,000; default 1000; azure: 100
	QueueBytes           int   `yaml:"queueBytes"`           // default 8 MiB; azure: 1 MiB
	// FullQueue is what becomes of messages for a stored session whose queue is
	// full: dropOldest (default), dropNewest or endSession (azure).
	FullQueue   string   `yaml:"fullQueue"`
	OutputBytes int      `yaml:"outputBytes"` // unsent bytes before a client counts as slow; default 1 MiB
	Retained    Retained `yaml:"retained"`
}

// Retained bounds the retained messages of a namespace.
type Retained struct {
	Messages     int   `yaml:"messages"`     // default 1,000,000; azure: 10,000
	Bytes        int64 `yaml:"bytes"`        // of topics and payloads; default 1 GiB; azure: 640 MiB
	MessageBytes int   `yaml:"messageBytes"` // topic and payload of one; default 8 MiB; azure: 65,536
}

// Ledger is how long history is kept.
type Ledger struct {
	Age   time.Duration `yaml:"age"`   // default 720h (30 days)
	Bytes int64         `yaml:"bytes"` // default 1 GiB
}

// Webhook is how targets of event subscriptions are reached.
type Webhook struct {
	// AllowPrivate admits targets on loopback and private addresses, AllowHTTP
	// plain http. Unset: while every listener is on loopback.
	AllowPrivate *bool  `yaml:"allowPrivate"`
	AllowHTTP    *bool  `yaml:"allowHttp"`
	Proxy        string `yaml:"proxy"`  // URL of a proxy; empty: none, whatever the environment says
	CAFile       string `yaml:"caFile"` // further trusted roots, PEM
	Origin       string `yaml:"origin"` // of the CloudEvents handshake; default eventgrid.azure.net
	// PublicURL is how subscribers reach us, for validation URLs. Default: the
	// first HTTPS listener, else the first HTTP one.
	PublicURL string `yaml:"publicUrl"`
}

// Storage bounds the data directory, in bytes.
type Storage struct {
	Limit    int64 `yaml:"limit"`    // of the store; 0: none; at least 64 MiB
	LowWater int64 `yaml:"lowWater"` // free space below which new work is refused; default 256 MiB; at least 32 MiB above reserve
	Reserve  int64 `yaml:"reserve"`  // free space below which disconnects and deletes wait too; default 64 MiB; at least 16 MiB
	Cache    int64 `yaml:"cache"`    // block cache; default 8 MiB
}

// Log is what is logged to standard error.
type Log struct {
	Level  slog.Level `yaml:"level"`  // debug, info (default), warn or error
	Format string     `yaml:"format"` // text (default) or json
}

const zeros = "00000000-0000-0000-0000-000000000000"

// Default returns the settings that hold where nothing is said, for the
// profile.
func Default(p Profile) Config {
	c := Config{
		Data: dataDir(), Profile: p, Node: "node1",
		Listen: Listen{
			MQTT: []string{"localhost:1883"}, MQTTS: []string{"localhost:8883"},
			HTTP: []string{"localhost:8080"}, HTTPS: []string{"localhost:8443"},
		},
		TLS:      TLS{KeyType: "both"},
		Access:   Access{Anonymous: "loopback"},
		Resource: Resource{Subscription: zeros, Group: "rollcall", Namespace: "default", Location: "local"},
		MQTT: MQTT{
			MaxConnections: 100_000, ConnectTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second,
			MaxPacketSize: 1 << 20, ReceiveMaximum: 1000, TopicAliases: 10, ServerAliases: 10, MaxClientID: 512, MaxTopicLevels: 128, MaxSubscriptions: 10_000, MaxSubscriptionBytes: 16 << 20, SubscriptionBytes: 2 << 30, MaxMatches: 256,
			MaxInflight: 100, QueueMessages: 1000, QueueBytes: 8 << 20, FullQueue: "dropOldest", OutputBytes: 1 << 20,
			Retained: Retained{Messages: 1_000_000, Bytes: 1 << 30, MessageBytes: 8 << 20},
		},
		Ledger:          Ledger{Age: 30 * 24 * time.Hour, Bytes: 1 << 30},
		Delivery:        delivery.DefaultSettings(),
		Webhook:         Webhook{Origin: "eventgrid.azure.net"},
		Subscriptions:   grid.DefaultSettings(),
		Storage:         Storage{LowWater: 256 << 20, Reserve: 64 << 20, Cache: 8 << 20},
		Log:             Log{Format: "text"},
		ShutdownTimeout: 15 * time.Second,
	}
	if p == Azure {
		c.Listen.MQTT = nil
		c.MQTT.MaxPacketSize, c.MQTT.MaxKeepAlive, c.MQTT.MaxClientID = 512<<10, 1160, 128
		c.MQTT.MaxTopicBytes, c.MQTT.MaxTopicLevels, c.MQTT.MaxSubscriptions = 256, 15, 50
		c.MQTT.QueueMessages, c.MQTT.QueueBytes, c.MQTT.FullQueue = 100, 1<<20, "endSession"
		c.MQTT.ServerAliases, c.MQTT.MaxSessionExpiry, c.MQTT.MaxWillDelay = 0, time.Hour, 5*time.Minute
		c.MQTT.Retained = Retained{Messages: 10_000, Bytes: 640 << 20, MessageBytes: 64 << 10}
	}
	return c
}

// dataDir is /var/lib/rollcall for root, else in the user's state directory.
func dataDir() string {
	if os.Geteuid() == 0 {
		return "/var/lib/rollcall"
	}
	if d := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(d) {
		return filepath.Join(d, "rollcall")
	}
	if home, err := os.UserHomeDir(); err == nil {
		return filepath.Join(home, ".local", "state", "rollcall")
	}
	return ""
}

// LoopbackOnly reports whether every listener is on loopback.
func (c *Config) LoopbackOnly() bool {
	for _, list := range [][]string{c.Listen.MQTT, c.Listen.MQTTS, c.Listen.HTTP, c.Listen.HTTPS} {
		for _, addr := range list {
			if !loopback(addr) {
				return false
			}
		}
	}
	return true
}

func loopback(addr string) bool {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return false
	}
	if strings.EqualFold(host, "localhost") {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

var (
	resourceName = regexp.MustCompile(`^[a-zA-Z0-9-]{3,50}$`)
	groupName    = regexp.MustCompile(`^[-\w.()]{1,90}$`)
	nodeName     = regexp.MustCompile(`^[a-zA-Z0-9._-]{1,64}$`)
	uuidForm     = regexp.MustCompile(`^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$`)
)

// Validate returns every mistake, each with the path of its setting, or nil.
func (c *Config) Validate() error {
	v := validation{c: c}
	v.check(c.Data != "", "data", "no directory is set and no home directory is known; name one")
	v.check(c.Profile == Open || c.Profile == Azure, "profile", "%q is neither open nor azure", c.Profile)
	v.check(nodeName.MatchString(c.Node), "node", "%q has other characters than letters, digits, dot, dash and underscore, or more than 64", c.Node)
	v.listeners()
	v.tls()
	v.access()
	v.resource()
	v.mqtt()
	v.storage()
	v.webhook()
	v.check(c.Ledger.Age >= time.Minute, "ledger.age", "%v is shorter than 1m", c.Ledger.Age)
	v.check(c.Ledger.Bytes >= 1<<20, "ledger.bytes", "%d is less than 1 MiB", c.Ledger.Bytes)
	v.bad = append(v.bad, c.Delivery.Validate("delivery")...)
	v.bad = append(v.bad, c.Subscriptions.Validate("subscriptions")...)
	v.check(c.Log.Format == "text" || c.Log.Format == "json", "log.format", "%q is neither text nor json", c.Log.Format)
	v.span("shutdownTimeout", c.ShutdownTimeout, time.Second, 10*time.Minute)
	return v.bad.Err()
}

type validation struct {
	c   *Config
	bad fault.List
}

func (v *validation) check(ok bool, path, format string, args ...any) {
	if !ok {
		v.bad.Add(fault.At(path, format, args...))
	}
}

func (v *validation) span(path string, d, lo, hi time.Duration) {
	v.check(d >= lo && d <= hi, path, "%v is not between %v and %v", d, lo, hi)
}

func (v *validation) count(path string, n, lo, hi int) {
	v.check(n >= lo && n <= hi, path, "%d is not between %d and %d", n, lo, hi)
}

func (v *validation) listeners() {
	l, any := v.c.Listen, 0
	for _, k := range []struct {
		path  string
		addrs []string
	}{{"listen.mqtt", l.MQTT}, {"listen.mqtts", l.MQTTS}, {"listen.http", l.HTTP}, {"listen.https", l.HTTPS}} {
		for _, a := range k.addrs {
			any++
			host, port, err := net.SplitHostPort(a)
			v.check(err == nil, k.path, "%q is not host:port", a)
			if err == nil {
				_, perr := net.LookupPort("tcp", port)
				v.check(perr == nil && port != "", k.path, "%q has no port", a)
				v.check(host == "" || strings.EqualFold(host, "localhost") || net.ParseIP(host) != nil, k.path,
					"%q: listen on an IP address, on localhost, or on all addresses with \":port\"", a)
			}
		}
	}
	v.check(any > 0, "listen", "every listener is turned off")
	v.check(v.c.Profile != Azure || len(l.MQTT) == 0, "listen.mqtt", "the profile azure has no plain MQTT; use listen.mqtts")
}

func (v *validation) tls() {
	t := v.c.TLS
	v.check((t.Cert == "") == (t.Key == ""), "tls", "cert and key go together")
	v.check(t.KeyType == "ecdsa" || t.KeyType == "rsa" || t.KeyType == "both", "tls.keyType", "%q is none of ecdsa, rsa and both", t.KeyType)
}

func (v *validation) access() {
	a := v.c.Access
	switch a.Anonymous {
	case "off", "loopback", "all":
	default:
		v.check(false, "access.anonymous", "%q is none of off, loopback and all", a.Anonymous)
	}
	local := v.c.LoopbackOnly()
	v.check(!a.NoAuth || local, "access.noAuth", "listeners beyond loopback need the token")
	v.check(!a.NoAuth || !a.BehindProxy, "access.noAuth", "behind a proxy no peer counts as being on this machine, so that everybody needs the token")
	v.check(!a.DevKeys || !a.BehindProxy, "access.devKeys", "well-known keys are not for what a proxy makes reachable")
	v.check(!a.BehindProxy || a.AllowAll, "access.behindProxy", "a proxy makes the listeners reachable from other machines and there are no authorization rules: any client that connects could publish and subscribe anywhere. If that is meant, set access.allowAll (--allow-all)")
	v.check(!a.DevKeys || local, "access.devKeys", "well-known keys are for loopback listeners only")
	if !a.AllowAll {
		for _, k := range []struct {
			path  string
			addrs []string
		}{{"listen.mqtt", v.c.Listen.MQTT}, {"listen.mqtts", v.c.Listen.MQTTS}, {"listen.http", v.c.Listen.HTTP}, {"listen.https", v.c.Listen.HTTPS}} {
			for _, addr := range k.addrs {
				v.check(loopback(addr), k.path,
					"%s is reachable from other machines and there are no authorization rules: any client that connects could publish and subscribe anywhere. If that is meant, set access.allowAll (--allow-all)", addr)
			}
		}
	}
	known := map[string]bool{"ClientCertificateSubject": true, "ClientCertificateDns": true, "ClientCertificateUri": true, "ClientCertificateIp": true, "ClientCertificateEmail": true}
	for _, s := range a.Origins {
		u, err := url.Parse(s)
		v.check(s == "*" || err == nil && u.Scheme != "" && u.Host != "" && u.User == nil && u.Path == "" && u.RawQuery == "" && u.Fragment == "",
			"access.origins", "%q is no origin: write https://app.example.org, or * for every origin", s)
	}
	for _, s := range a.AuthenticationNameSources {
		v.check(known[s], "access.authenticationNameSources", "%q is none of ClientCertificateSubject, …Dns, …Uri, …Ip and …Email", s)
	}
}

func (v *validation) resource() {
	r := v.c.Resource
	v.check(uuidForm.MatchString(r.Subscription), "resource.subscription", "%q is not a UUID", r.Subscription)
	v.check(groupName.MatchString(r.Group), "resource.group", "%q is not a resource group name", r.Group)
	v.check(resourceName.MatchString(r.Namespace), "resource.namespace", "%q is not 3 to 50 letters, digits and dashes", r.Namespace)
	v.check(r.Location != "", "resource.location", "it is empty")
}

func (v *validation) mqtt() {
	m := v.c.MQTT
	v.count("mqtt.maxConnections", m.MaxConnections, 1, 10_000_000)
	v.span("mqtt.connectTimeout", m.ConnectTimeout, 100*time.Millisecond, 5*time.Minute)
	v.span("mqtt.writeTimeout", m.WriteTimeout, 100*time.Millisecond, 10*time.Minute)
	v.count("mqtt.maxPacketSize", m.MaxPacketSize, 1<<10, 1<<28)
	v.count("mqtt.maxKeepAlive", m.MaxKeepAlive, 0, 65535)
	v.count("mqtt.receiveMaximum", m.ReceiveMaximum, 1, 65535)
	v.count("mqtt.topicAliases", m.TopicAliases, 0, 65535)
	v.count("mqtt.maxClientId", m.MaxClientID, 23, 65535)
	v.count("mqtt.maxTopicBytes", m.MaxTopicBytes, 0, 65535)
	v.count("mqtt.maxTopicLevels", m.MaxTopicLevels, 1, 65536)
	v.count("mqtt.maxSubscriptions", m.MaxSubscriptions, 0, 1_000_000)
	v.count("mqtt.maxSubscriptionBytes", m.MaxSubscriptionBytes, 1<<10, 1<<40)
	v.count("mqtt.subscriptionBytes", int(m.SubscriptionBytes), 1<<10, 1<<46)
	v.count("mqtt.maxMatches", m.MaxMatches, 1, 1_000_000)
	v.count("mqtt.maxInflight", m.MaxInflight, 1, 65535)
	v.count("mqtt.queueMessages", m.QueueMessages, 1, 65_000)
	v.count("mqtt.queueBytes", m.QueueBytes, 1<<10, 1<<32)
	switch m.FullQueue {
	case "dropOldest", "dropNewest", "endSession":
	default:
		v.check(false, "mqtt.fullQueue", "%q is none of dropOldest, dropNewest and endSession", m.FullQueue)
	}
	v.count("mqtt.outputBytes", m.OutputBytes, 4<<10, 1<<30)
	v.count("mqtt.serverAliases", m.ServerAliases, 0, 65535)
	v.count("mqtt.loops", m.Loops, -1, 1024)
	v.count("mqtt.retained.messages", m.Retained.Messages, 1, 100_000_000)
	v.count("mqtt.retained.bytes", int(m.Retained.Bytes), 1<<10, 1<<46)
	v.count("mqtt.retained.messageBytes", m.Retained.MessageBytes, 1<<10, 11<<20)
	longest := time.Duration(1<<32-2) * time.Second
	if v.c.Profile == Azure {
		longest = 8 * time.Hour
		v.check(m.MaxSessionExpiry > 0, "mqtt.maxSessionExpiry", "profile azure needs a bound")
	}
	v.span("mqtt.maxSessionExpiry", m.MaxSessionExpiry, 0, longest)
	v.span("mqtt.maxWillDelay", m.MaxWillDelay, 0, time.Duration(1<<32-2)*time.Second)
	v.check(m.MaxSessionExpiry%time.Second == 0, "mqtt.maxSessionExpiry", "%v is not a number of whole seconds", m.MaxSessionExpiry)
	v.check(m.MaxWillDelay%time.Second == 0, "mqtt.maxWillDelay", "%v is not a number of whole seconds", m.MaxWillDelay)
}

// The store allocates a log of 8.8 MiB ahead whenever it begins one, full disk
// or not. With less room than this the reserve would be gone before the first
// disconnect needed it.
const (
	minReserve = 16 << 20
	minMargin  = 32 << 20
)

func (v *validation) storage() {
	s := v.c.Storage
	v.check(s.Limit == 0 || s.Limit >= 64<<20, "storage.limit", "%d is less than 64 MiB", s.Limit)
	v.check(s.Reserve >= minReserve, "storage.reserve", "%d is less than 16 MiB: a new log alone takes nearly 9", s.Reserve)
	v.check(s.LowWater >= s.Reserve+minMargin, "storage.lowWater", "%d is not 32 MiB more than storage.reserve, %d: the store's own files need the room between", s.LowWater, s.Reserve)
	v.check(s.Cache >= 1<<20, "storage.cache", "%d is less than 1 MiB", s.Cache)
}

func (v *validation) webhook() {
	w := v.c.Webhook
	v.check(w.Origin != "", "webhook.origin", "it is empty")
	// The texts never quote a URL, which may hold secrets.
	if w.Proxy != "" {
		u, err := url.Parse(w.Proxy)
		ok := err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https" || u.Scheme == "socks5" || u.Scheme == "socks5h")
		v.check(ok, "webhook.proxy", "it is not a URL of a proxy such as http://host:3128 or socks5://host:1080")
	}
	if w.PublicURL != "" {
		u, err := url.Parse(w.PublicURL)
		ok := err == nil && u.Host != "" && (u.Scheme == "http" || u.Scheme == "https") &&
			u.User == nil && u.RawQuery == "" && u.Fragment == "" && !strings.HasSuffix(w.PublicURL, "/")
		v.check(ok, "webhook.publicUrl", "it is not a URL such as https://host:8443, without user, query and slash at the end")
	}
}
