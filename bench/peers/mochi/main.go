// Command mochi serves MQTT by github.com/mochi-mqtt/server, so that it can be
// measured as a process of its own beside other brokers. It lets everybody in,
// keeps everything in memory and logs errors only.
package main

import (
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"os"
	"os/signal"
	"syscall"

	mqtt "github.com/mochi-mqtt/server/v2"
	"github.com/mochi-mqtt/server/v2/hooks/auth"
	"github.com/mochi-mqtt/server/v2/listeners"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "mochi:", err)
		os.Exit(1)
	}
}

func run() error {
	plain := flag.String("tcp", "", "listen for MQTT on `address`")
	secure := flag.String("tls", "", "listen for MQTT over TLS on `address`")
	web := flag.String("ws", "", "listen for MQTT over WebSocket on `address`")
	cert := flag.String("cert", "", "`file` of the certificate, for -tls")
	key := flag.String("key", "", "`file` of its private key")
	flag.Parse()

	capabilities := mqtt.NewDefaultServerCapabilities()
	capabilities.MaximumInflight = math.MaxUint16
	capabilities.ReceiveMaximum = math.MaxUint16
	capabilities.MaximumClientWritesPending = 1 << 16
	server := mqtt.New(&mqtt.Options{
		Capabilities: capabilities,
		Logger:       slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
	})
	if err := server.AddHook(new(auth.AllowHook), nil); err != nil {
		return err
	}
	var config *tls.Config
	if *secure != "" {
		pair, err := tls.LoadX509KeyPair(*cert, *key)
		if err != nil {
			return err
		}
		config = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	for _, l := range []struct {
		address string
		make    func(listeners.Config) listeners.Listener
		config  listeners.Config
	}{
		{*plain, func(c listeners.Config) listeners.Listener { return listeners.NewTCP(c) }, listeners.Config{ID: "tcp", Address: *plain}},
		{*secure, func(c listeners.Config) listeners.Listener { return listeners.NewTCP(c) }, listeners.Config{ID: "tls", Address: *secure, TLSConfig: config}},
		{*web, func(c listeners.Config) listeners.Listener { return listeners.NewWebsocket(c) }, listeners.Config{ID: "ws", Address: *web}},
	} {
		if l.address == "" {
			continue
		}
		if err := server.AddListener(l.make(l.config)); err != nil {
			return err
		}
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, os.Interrupt, syscall.SIGTERM)
	err := server.Serve()
	if err == nil {
		<-stop
	}
	return errors.Join(err, server.Close())
}
