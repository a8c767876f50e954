package listen

import (
	"io"
	"net/http"
	"slices"
	"strings"

	"github.com/gobwas/ws"

	"rollcall/internal/disconnect"
)

// Ending is an error that tells why a transport ended better than "connection
// lost" does.
type Ending struct {
	Reason   disconnect.Reason
	Evidence disconnect.Evidence
}

// Error implements error.
func (e *Ending) Error() string { return e.Evidence.Detail }

// WebSocket returns the handler of MQTT over WebSocket (MQTT 5.0 section 6).
// The caller has checked Host and Origin and mounts it where clients expect it.
// local tells whether the peer of a request is on this machine, proxies
// considered.
func (s *Server) WebSocket(local func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet || !strings.EqualFold(r.Header.Get("Upgrade"), "websocket") {
			s.refuse(refusedRequest(r), "websocket_upgrade", "the request asks for no WebSocket; does a proxy in front take the Upgrade header away?")
			w.Header().Set("Upgrade", "websocket")
			http.Error(w, "this path serves MQTT over WebSocket: connect with a WebSocket client, subprotocol mqtt", http.StatusUpgradeRequired)
			return
		}
		protocol := offered(r)
		if protocol == "" { // [MQTT-6.0.0-3]
			s.refuse(refusedRequest(r), "websocket_protocol", "the WebSocket client does not offer the subprotocol mqtt")
			http.Error(w, "offer the WebSocket subprotocol mqtt", http.StatusBadRequest)
			return
		}
		if !s.admit(refusedRequest(r)) {
			http.Error(w, "too many connections, try again later", http.StatusServiceUnavailable)
			return
		}
		up := ws.HTTPUpgrader{
			Timeout:  s.opts.HandshakeTimeout,
			Protocol: func(p string) bool { return p == protocol }, // [MQTT-6.0.0-4]
		}
		raw, rw, _, err := up.Upgrade(r, w)
		if err != nil {
			s.refuse(refusedRequest(r), "websocket_handshake", "the WebSocket handshake failed: "+err.Error())
			s.leave()
			return
		}
		early, err := buffered(rw.Reader)
		if err != nil {
			s.refuse(refusedRequest(r), "websocket_handshake", "what came behind the WebSocket handshake cannot be read: "+err.Error())
			raw.Close()
			s.leave()
			return
		}
		info := s.info(scheme(r), raw)
		info.Confidential, info.TLS = r.TLS != nil, r.TLS
		info.Loopback = info.Loopback && local(r)
		// net/http waits for nothing after a hijack: go on without its stack
		// and buffers.
		go s.serve(&wsConn{Conn: raw, early: early}, info)
	})
}

// RefusedRequest notes a request for MQTT over WebSocket that did not get here;
// see Options.Refused.
func (s *Server) RefusedRequest(r *http.Request, reason, text string) {
	s.refuse(refusedRequest(r), reason, text)
}

func refusedRequest(r *http.Request) Info {
	return Info{Transport: scheme(r), Remote: r.RemoteAddr}
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "wss"
	}
	return "ws"
}

// offered picks the subprotocol: "mqtt" if the client offers it, else the
// customary name of old 3.1.1 clients.
func offered(r *http.Request) string {
	var all []string
	for _, line := range r.Header.Values("Sec-WebSocket-Protocol") {
		for p := range strings.SplitSeq(line, ",") {
			all = append(all, strings.TrimSpace(p))
		}
	}
	for _, known := range []string{"mqtt", "mqttv3.1"} {
		if slices.Contains(all, known) {
			return known
		}
	}
	return ""
}

type peeker interface {
	io.Reader
	Buffered() int
}

// buffered takes out what the HTTP server had read ahead.
func buffered(r peeker) ([]byte, error) {
	if r == nil || r.Buffered() == 0 {
		return nil, nil
	}
	early := make([]byte, r.Buffered())
	_, err := io.ReadFull(r, early)
	return early, err
}
