package registry

import (
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"rollcall/internal/fault"
	"rollcall/internal/store"
)

const (
	pathCertificate = "properties.encodedCertificate"
	maxCertificate  = 64 << 10 // bytes of PEM
)

// CA is a CA certificate that may have signed clients' certificates: a root, or
// any intermediate.
type CA struct {
	Name               string // unique ignoring case; in the case it was created with
	Description        string
	EncodedCertificate string // PEM, as it was written
	IssueTime          time.Time
	ExpiryTime         time.Time
	CreatedOn          time.Time // UTC, to 100 ns
	UpdatedOn          time.Time // rises with every change
	ProvisioningState  string    // Succeeded
	Revision           store.Revision

	cert *x509.Certificate
}

// Certificate returns the parsed certificate. It must not be changed.
func (c CA) Certificate() *x509.Certificate { return c.cert }

// CASpec is what a write of a CA certificate says.
type CASpec struct {
	Description        string // at most 4,096 bytes
	EncodedCertificate string // one certificate in PEM, at most 64 KiB
}

// parse fills in what follows from EncodedCertificate.
func (c *CA) parse() error {
	cert, err := parseOne(c.EncodedCertificate)
	if err != nil {
		return err
	}
	c.cert, c.IssueTime, c.ExpiryTime = cert, cert.NotBefore.UTC(), cert.NotAfter.UTC()
	c.ProvisioningState = Succeeded
	return nil
}

// parseOne reads one certificate: PEM text with or without line breaks, as the
// service's own tools send it, or the base64 of its DER encoding.
func parseOne(text string) (*x509.Certificate, error) {
	if der, err := base64.StdEncoding.DecodeString(strings.Join(strings.Fields(text), "")); err == nil && len(der) > 0 {
		return x509.ParseCertificate(der)
	}
	var found *x509.Certificate
	for rest := []byte(broken(text)); ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case strings.Contains(block.Type, "PRIVATE KEY"):
			return nil, errors.New("it holds a private key; keep that to yourself")
		case block.Type != "CERTIFICATE":
			return nil, fmt.Errorf("it holds a block of type %.32q", block.Type)
		case found != nil:
			return nil, errors.New("it holds more than one certificate")
		}
		var err error
		if found, err = x509.ParseCertificate(block.Bytes); err != nil {
			return nil, err
		}
	}
	if found == nil {
		return nil, errors.New("no certificate in PEM found")
	}
	return found, nil
}

// armor is a line that begins or ends a block of PEM.
var armor = regexp.MustCompile(`-----(BEGIN|END) [A-Z0-9 ]+-----`)

// broken returns PEM text with line breaks around its armor, which package pem
// insists on. What is in between may be broken anywhere.
func broken(text string) string {
	return armor.ReplaceAllString(strings.ReplaceAll(text, `\n`, "\n"), "\n$0\n")
}

// normalize makes a CA of a spec and collects every mistake.
func (s CASpec) normalize(name string, now time.Time) (CA, error) {
	var bad fault.List
	bad.Add(ValidateCAName(name))
	if len(s.Description) > maxDescription {
		bad.Add(fault.At(pathDescription, "The description is more than %d bytes.", maxDescription))
	}
	c := CA{Name: name, Description: s.Description, EncodedCertificate: s.EncodedCertificate}
	if len(s.EncodedCertificate) > maxCertificate {
		bad.Add(fault.At(pathCertificate, "The certificate is more than %d bytes.", maxCertificate))
		return c, bad.Err()
	}
	if err := c.parse(); err != nil {
		bad.Add(fault.At(pathCertificate, "The certificate cannot be used: %v.", err))
		return c, bad.Err()
	}
	switch cert := c.cert; {
	case !cert.BasicConstraintsValid || !cert.IsCA:
		bad.Add(fault.At(pathCertificate, "The certificate is not a CA's: its basic constraints do not say so."))
	case cert.KeyUsage != 0 && cert.KeyUsage&x509.KeyUsageCertSign == 0:
		bad.Add(fault.At(pathCertificate, "The certificate's key usage does not allow it to sign certificates."))
	case now.After(cert.NotAfter):
		bad.Add(fault.At(pathCertificate, "The certificate expired at %s.", cert.NotAfter.UTC().Format(time.RFC3339)))
	}
	return c, bad.Err()
}
