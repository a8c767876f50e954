package listen

import (
	"errors"
	"net"
	"os"
	"testing"
	"time"

	"github.com/gobwas/ws"
)

// TestReadDeadlineLosesNothing: whoever reads a WebSocket connection may be
// interrupted within a frame's header, or within a control frame, and reads on
// afterwards as if it had not been.
func TestReadDeadlineLosesNothing(t *testing.T) {
	server, client := net.Pipe()
	defer server.Close()
	defer client.Close()
	c := &wsConn{Conn: server}
	stream := append(ws.MustCompileFrame(ws.MaskFrame(ws.NewPongFrame([]byte("pong")))), ws.MustCompileFrame(ws.MaskFrame(ws.NewBinaryFrame([]byte("mqtt"))))...)
	got := make([]byte, 0, 8)
	for i := range stream {
		sent := make(chan error, 1)
		go func() { // ends when the byte is read
			_, err := client.Write(stream[i : i+1])
			sent <- err
		}()
		for done := false; !done; {
			buf := make([]byte, 8)
			if err := c.SetReadDeadline(time.Now().Add(time.Millisecond)); err != nil {
				t.Fatal(err)
			}
			n, err := c.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatalf("byte %d of %d: %v", i, len(stream), err)
			}
			select {
			case err := <-sent:
				if err != nil {
					t.Fatal(err)
				}
				done = true
			default:
			}
		}
	}
	if string(got) != "mqtt" {
		t.Fatalf("read %q", got)
	}
}
