package app

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"

	"rollcall/internal/config"
)

// Endpoints are where a server listens.
type Endpoints struct {
	MQTT  []string `json:"mqtt"`  // host:port
	MQTTS []string `json:"mqtts"` // host:port
	HTTP  []string `json:"http"`  // URLs
	HTTPS []string `json:"https"` // URLs
}

// listeners are the open sockets of a server.
type listeners struct {
	mqtt, mqtts, http, https []net.Listener
}

func openListeners(c config.Listen) (l listeners, err error) {
	for _, k := range []struct {
		path  string
		addrs []string
		into  *[]net.Listener
	}{
		{"listen.mqtt", c.MQTT, &l.mqtt}, {"listen.mqtts", c.MQTTS, &l.mqtts},
		{"listen.http", c.HTTP, &l.http}, {"listen.https", c.HTTPS, &l.https},
	} {
		for _, addr := range k.addrs {
			lns, err := open(addr)
			*k.into = append(*k.into, lns...)
			if err != nil {
				return l, errors.Join(fmt.Errorf("%s: %w", k.path, err), l.close())
			}
		}
	}
	return l, nil
}

// open opens one address. "localhost" is 127.0.0.1 and, where the machine
// has IPv6, ::1 with the same port.
func open(addr string) ([]net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if !strings.EqualFold(host, "localhost") {
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			return nil, err
		}
		return []net.Listener{ln}, nil
	}
	const tries = 10 // of free ports, until one is free on both
	for try := 1; ; try++ {
		ln, err := net.Listen("tcp4", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			return nil, err
		}
		_, chosen, _ := net.SplitHostPort(ln.Addr().String())
		ln6, err := net.Listen("tcp6", net.JoinHostPort("::1", chosen))
		switch {
		case err == nil:
			return []net.Listener{ln, ln6}, nil
		case !errors.Is(err, syscall.EADDRINUSE): // there is no IPv6 here
			return []net.Listener{ln}, nil
		}
		// Half of a name is not enough: clients that try ::1 first would show
		// whoever has it what is meant for us.
		if err := errors.Join(err, ln.Close()); port != "0" || try == tries {
			return nil, err
		}
	}
}

func (l *listeners) close() error {
	var errs []error
	for _, list := range [][]net.Listener{l.mqtt, l.mqtts, l.http, l.https} {
		for _, ln := range list {
			if err := ln.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

func (l *listeners) endpoints() Endpoints {
	addrs := func(lns []net.Listener, prefix string) []string {
		out := make([]string, 0, len(lns))
		for _, ln := range lns {
			out = append(out, prefix+ln.Addr().String())
		}
		return out
	}
	return Endpoints{
		MQTT: addrs(l.mqtt, ""), MQTTS: addrs(l.mqtts, ""),
		HTTP: addrs(l.http, "http://"), HTTPS: addrs(l.https, "https://"),
	}
}
