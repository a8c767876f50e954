package cli

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"rollcall/internal/app"
	"rollcall/internal/config"
	"rollcall/internal/event"
	"rollcall/internal/fault"
)

// apiVersion is that of the control plane, which all requests name.
const apiVersion = "2025-02-15"

// target is which server a command talks to.
type target struct{ url, token, ca, data string }

// flags adds the flags that choose the server.
func (t *target) flags(cmd *cobra.Command) {
	f := cmd.PersistentFlags()
	f.StringVar(&t.url, "url", os.Getenv(config.EnvPrefix+"URL"), "`URL` of the server (default: the one of the data directory; $ROLLCALL_URL)")
	f.StringVar(&t.token, "token", "", "bearer `token` (default: the one of the data directory, for its own server; $ROLLCALL_TOKEN)")
	f.StringVar(&t.ca, "ca", os.Getenv(config.EnvPrefix+"CA"), "`file` of the CA that the server's certificate is of ($ROLLCALL_CA)")
	f.StringVar(&t.data, "data", "", "data `directory` of the server (default as for serve; $ROLLCALL_DATA)")
}

// api is a server's HTTP interface.
type api struct {
	base      string
	token     string
	namespace string // resource id
	http      *http.Client
}

// open finds the server.
func (t *target) open(ctx context.Context) (*api, error) {
	info, err := t.info()
	if err != nil && t.url == "" {
		return nil, err
	}
	a := &api{base: strings.TrimSuffix(t.url, "/"), token: t.token, namespace: info.Namespace}
	if a.token == "" {
		a.token = os.Getenv(config.EnvPrefix + "TOKEN")
	}
	if a.token == "" && (t.url == "" || isEndpoint(info, t.url)) { // others are not shown it
		a.token = info.Token
	}
	if a.base == "" {
		for _, list := range [][]string{info.HTTP, info.HTTPS} {
			if a.base == "" && len(list) > 0 {
				a.base = list[0]
			}
		}
		if a.base == "" {
			return nil, errors.New("the server has no HTTP listener; start it with --http or --https")
		}
	}
	tc, err := t.tls(info)
	if err != nil {
		return nil, err
	}
	a.http = &http.Client{
		Transport:     &http.Transport{TLSClientConfig: tc, ForceAttemptHTTP2: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	if t.url != "" || a.namespace == "" {
		var st app.Status
		if err := a.get(ctx, "/rollcall/v1/status", &st); err != nil {
			return nil, err
		}
		a.namespace = st.Namespace
	}
	return a, nil
}

// isEndpoint reports whether a URL is one of the server's own.
func isEndpoint(info app.ReadyInfo, target string) bool {
	want, err := url.Parse(target)
	if err != nil {
		return false
	}
	local := func(host string) bool {
		ip := net.ParseIP(host)
		return host == "localhost" || ip != nil && ip.IsLoopback()
	}
	for _, text := range slices.Concat(info.HTTP, info.HTTPS) {
		have, err := url.Parse(text)
		if err != nil || have.Scheme != want.Scheme || have.Port() != want.Port() {
			continue
		}
		ip := net.ParseIP(have.Hostname())
		everywhere := ip != nil && ip.IsUnspecified()
		if have.Hostname() == want.Hostname() || (everywhere || local(have.Hostname())) && local(want.Hostname()) {
			return true
		}
	}
	return false
}

// info reads what the server wrote into its data directory.
func (t *target) info() (app.ReadyInfo, error) {
	data := t.data
	if data == "" {
		if data = os.Getenv(config.EnvPrefix + "DATA"); data == "" {
			data = config.Default(config.Open).Data
		}
	}
	var info app.ReadyInfo
	text, err := os.ReadFile(app.ServerFile(data))
	if err != nil {
		return info, fmt.Errorf("no server is running on the data directory %s; start one with rollcall serve, or name another with --data or --url (%w)", data, err)
	}
	if err := json.Unmarshal(text, &info); err != nil {
		return info, fmt.Errorf("%s: %w", app.ServerFile(data), err)
	}
	return info, nil
}

func (t *target) tls(info app.ReadyInfo) (*tls.Config, error) {
	file := t.ca
	if file == "" {
		file = info.CA
	}
	tc := &tls.Config{MinVersion: tls.VersionTLS12}
	if file == "" {
		return tc, nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	if tc.RootCAs, err = x509.SystemCertPool(); err != nil {
		tc.RootCAs = x509.NewCertPool()
	}
	if !tc.RootCAs.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s: no certificate in PEM found", file)
	}
	return tc, nil
}

// do makes one request and decodes the answer into out, unless that is nil. It
// returns the status.
func (a *api) do(ctx context.Context, method, path string, in, out any) (int, error) {
	var body io.Reader
	if in != nil {
		text, err := json.Marshal(in)
		if err != nil {
			return 0, err
		}
		body = bytes.NewReader(text)
	}
	res, err := a.send(ctx, method, path, body)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil {
		return res.StatusCode, err
	}
	if res.StatusCode >= 300 {
		return res.StatusCode, answer(res.StatusCode, text)
	}
	if out == nil || len(text) == 0 {
		return res.StatusCode, nil
	}
	return res.StatusCode, json.Unmarshal(text, out)
}

func (a *api) send(ctx context.Context, method, path string, body io.Reader) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, body)
	if err != nil {
		return nil, err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if a.token != "" {
		req.Header.Set("Authorization", "Bearer "+a.token)
	}
	res, err := a.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the server: %w", err)
	}
	return res, nil
}

func (a *api) get(ctx context.Context, path string, out any) error {
	_, err := a.do(ctx, http.MethodGet, path, nil, out)
	return err
}

// answer turns an error body into a fault.
func answer(status int, text []byte) error {
	type detail struct {
		Code    fault.Code `json:"code"`
		Message string     `json:"message"`
		Target  string     `json:"target"`
	}
	var body struct {
		Error struct {
			detail
			Details []detail `json:"details"`
		} `json:"error"`
	}
	if json.Unmarshal(text, &body) != nil || body.Error.Message == "" {
		return fmt.Errorf("the server answered %d: %.200s", status, text)
	}
	e := &fault.Error{Code: body.Error.Code, Message: body.Error.Message, Target: body.Error.Target}
	for _, d := range body.Error.Details {
		e.Details = append(e.Details, &fault.Error{Code: d.Code, Message: d.Message, Target: d.Target})
	}
	return e
}

// arm is the control plane's path of something below the namespace.
func (a *api) arm(rest string) string {
	return a.namespace + rest + "?api-version=" + apiVersion
}

// list collects all pages of a control-plane collection.
func list[T any](ctx context.Context, a *api, rest string) ([]T, error) {
	var all []T
	path := a.arm(rest) + "&$top=100"
	for path != "" {
		var page struct {
			Value    []T    `json:"value"`
			NextLink string `json:"nextLink"`
		}
		if err := a.get(ctx, path, &page); err != nil {
			return nil, err
		}
		all = append(all, page.Value...)
		if page.NextLink == "" {
			return all, nil
		}
		_, after, ok := strings.Cut(page.NextLink, "/subscriptions/")
		if !ok {
			return nil, fmt.Errorf("the server's next page is at %q, which is none of its own", page.NextLink)
		}
		path = "/subscriptions/" + after
	}
	return all, nil
}

// ago prints how long before now something was.
func ago(t event.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t.Time)
	switch {
	case d < time.Second:
		return "now"
	case d < time.Minute:
		return fmt.Sprintf("%ds ago", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm ago", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh ago", int(d.Hours()))
	}
	return fmt.Sprintf("%dd ago", int(d.Hours()/24))
}
