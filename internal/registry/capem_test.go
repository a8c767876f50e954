package registry

import (
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"rollcall/internal/pki"
)

// A CA certificate is taken in the forms that tools send: with and without line
// breaks, with those of Windows, and as the base64 of its DER encoding.
func TestFormsOfCertificates(t *testing.T) {
	ca, err := pki.OpenClientAuthority(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text := string(ca.PEM())
	for name, form := range map[string]string{
		"PEM": text, "CRLF": strings.ReplaceAll(text, "\n", "\r\n"), "no line breaks": strings.ReplaceAll(text, "\n", ""),
		"spaces": strings.ReplaceAll(text, "\n", " "), "written out": strings.ReplaceAll(text, "\n", `\n`),
		"DER": base64.StdEncoding.EncodeToString(ca.Certificate().Raw), "text around": "# ours\n" + text + "\n",
	} {
		cert, err := parseOne(form)
		if err != nil || !cert.Equal(ca.Certificate()) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, form := range map[string]string{
		"nothing": "", "two": text + text, "half": text[:len(text)/2], "no base64": "hello", "other base64": base64.StdEncoding.EncodeToString([]byte("hello")),
	} {
		if _, err := parseOne(form); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
