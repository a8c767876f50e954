package cli

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"rollcall/internal/atomicfile"
)

// clientJSON is a client resource.
type clientJSON struct {
	Name       string           `json:"name,omitempty"`
	Properties clientProperties `json:"properties"`
}

type clientProperties struct {
	Description        string         `json:"description,omitempty"`
	AuthenticationName string         `json:"authenticationName,omitempty"`
	Certificate        *schemeJSON    `json:"clientCertificateAuthentication,omitempty"`
	State              string         `json:"state,omitempty"`
	Attributes         map[string]any `json:"attributes,omitempty"`
	ProvisioningState  string         `json:"provisioningState,omitempty"`
}

type schemeJSON struct {
	ValidationScheme   string   `json:"validationScheme,omitempty"`
	AllowedThumbprints []string `json:"allowedThumbprints,omitempty"`
}

func clientPath(name string) string { return "/clients/" + url.PathEscape(name) }

func newClient(t *target) *cobra.Command {
	cmd := &cobra.Command{
		Use: "client", Short: "Register the clients that may connect", GroupID: "set",
		Long: `A client is a registered identity. It proves who it is with a certificate
signed by a registered CA (rollcall ca add), with a certificate of a known
thumbprint, or with a user name and password.`,
	}
	t.flags(cmd)
	cmd.AddCommand(clientCreate(t), clientUpdate(t), clientList(t), clientShow(t), clientDelete(t))
	return cmd
}

// clientFlags are the properties that create and update take.
type clientFlags struct {
	description, authName, scheme, state, password, issue string
	thumbprints, attributes                               []string
	days                                                  int
}

func (f *clientFlags) add(cmd *cobra.Command, create bool) {
	fl := cmd.Flags()
	fl.StringVar(&f.description, "description", "", "free `text`")
	if create {
		fl.StringVar(&f.authName, "authentication-name", "", "what the client presents as its name, if not NAME; it cannot be changed later")
	}
	fl.StringVar(&f.scheme, "scheme", "", "how a certificate names the client: subject (default), dns, uri, ip, email or thumbprint (`scheme`)")
	fl.StringArrayVar(&f.thumbprints, "thumbprint", nil, "`SHA-256 or SHA-1` of an allowed certificate, in hex; at most two; implies --scheme thumbprint")
	fl.StringVar(&f.state, "state", "", "Enabled (default) or Disabled (`state`)")
	fl.StringArrayVar(&f.attributes, "attribute", nil, "`KEY=VALUE`; VALUE is JSON (3, true, [\"a\",\"b\"]) or else a string; repeatable")
	fl.StringVar(&f.password, "password-file", "", "set the password to the first line of `file` (- is standard input)")
	fl.StringVar(&f.issue, "issue-certificate", "", "issue a certificate of the quick-start client CA and write NAME.crt, NAME.key and ca.crt to `directory`")
	fl.IntVar(&f.days, "days", 90, "how many days that certificate is valid")
}

var schemes = map[string]string{
	"subject": "SubjectMatchesAuthenticationName", "dns": "DnsMatchesAuthenticationName",
	"uri": "UriMatchesAuthenticationName", "ip": "IpMatchesAuthenticationName",
	"email": "EmailMatchesAuthenticationName", "thumbprint": "ThumbprintMatch",
}

// apply puts what the flags say into p.
func (f *clientFlags) apply(cmd *cobra.Command, p *clientProperties) error {
	given := cmd.Flags().Changed
	if given("description") {
		p.Description = f.description
	}
	if f.authName != "" {
		p.AuthenticationName = f.authName
	}
	if given("state") {
		p.State = f.state
	}
	if len(f.thumbprints) > 0 {
		if given("scheme") && !strings.EqualFold(f.scheme, "thumbprint") && f.scheme != schemes["thumbprint"] {
			return usagef("--thumbprint goes with --scheme thumbprint only")
		}
		p.Certificate = &schemeJSON{ValidationScheme: schemes["thumbprint"], AllowedThumbprints: f.thumbprints}
	} else if given("scheme") {
		name, ok := schemes[strings.ToLower(f.scheme)]
		if !ok {
			name = f.scheme // the server knows the long names
		}
		p.Certificate = &schemeJSON{ValidationScheme: name}
	}
	for _, kv := range f.attributes {
		k, v, ok := strings.Cut(kv, "=")
		if !ok {
			return usagef("--attribute %s: write KEY=VALUE", kv)
		}
		if p.Attributes == nil {
			p.Attributes = make(map[string]any)
		}
		var value any
		dec := json.NewDecoder(strings.NewReader(v))
		dec.UseNumber()
		if dec.Decode(&value) != nil || dec.More() {
			value = v
		}
		p.Attributes[k] = value
	}
	return nil
}

// after does what comes once the resource exists: password and certificate.
func (f *clientFlags) after(ctx context.Context, cmd *cobra.Command, a *api, name string) error {
	if f.password != "" {
		secret, err := firstLine(f.password, cmd.InOrStdin())
		if err != nil {
			return err
		}
		_, err = a.do(ctx, http.MethodPost, "/rollcall/v1"+clientPath(name)+"/password", map[string]string{"password": secret}, nil)
		if err != nil {
			return err
		}
	}
	if f.issue == "" {
		return nil
	}
	var issued struct{ Certificate, PrivateKey, CA string }
	_, err := a.do(ctx, http.MethodPost, "/rollcall/v1"+clientPath(name)+"/certificate", map[string]int{"days": f.days}, &issued)
	if err != nil {
		return err
	}
	return writeCertificate(cmd.OutOrStdout(), f.issue, name, issued.Certificate, issued.PrivateKey, issued.CA)
}

func writeCertificate(w io.Writer, dir, name, cert, key, ca string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	base := strings.Map(func(r rune) rune {
		if r == ':' {
			return '_'
		}
		return r
	}, name)
	for _, f := range []struct {
		name, text string
		mode       os.FileMode
	}{{base + ".key", key, 0o600}, {base + ".crt", cert, 0o644}, {"ca.crt", ca, 0o644}} {
		if f.text == "" {
			continue
		}
		file := filepath.Join(dir, f.name)
		if err := atomicfile.Write(file, []byte(f.text), f.mode); err != nil {
			return err
		}
		fmt.Fprintln(w, file)
	}
	return nil
}

// firstLine reads a secret from a file, or from standard input.
func firstLine(file string, in io.Reader) (string, error) {
	var text []byte
	var err error
	if file == "-" {
		text, err = io.ReadAll(io.LimitReader(in, 64<<10))
	} else {
		text, err = os.ReadFile(file)
	}
	line, _, _ := strings.Cut(string(text), "\n")
	return strings.TrimSuffix(line, "\r"), err
}

func clientCreate(t *target) *cobra.Command {
	var f clientFlags
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Register a client", Args: arguments("NAME"),
		Example: `  rollcall client create thermostat-7 --issue-certificate ./certs
  rollcall client create pump --scheme thumbprint --thumbprint 3F8A…
  rollcall client create gateway --attribute floor=3 --attribute 'types=["Fan","Light"]' --password-file gateway.pw`,
		RunE: func(cmd *cobra.Command, args []string) error {
			var c clientJSON
			if err := f.apply(cmd, &c.Properties); err != nil {
				return err
			}
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var have clientJSON
			if err := a.get(cmd.Context(), a.arm(clientPath(args[0])), &have); err == nil {
				return fmt.Errorf("client %s exists; change it with rollcall client update", args[0])
			}
			if _, err := a.do(cmd.Context(), http.MethodPut, a.arm(clientPath(args[0])), c, nil); err != nil {
				return err
			}
			return f.after(cmd.Context(), cmd, a, args[0])
		},
	}
	f.add(cmd, true)
	return cmd
}

func clientUpdate(t *target) *cobra.Command {
	var f clientFlags
	var clear bool
	cmd := &cobra.Command{
		Use: "update NAME", Short: "Change a client; it acts on its sessions at once", Args: arguments("NAME"),
		Long: `Change a client. What no flag names stays. A change after which the client
would not be let in any more ends its sessions at once
(ClientAuthenticationError).`,
		Example: `  rollcall client update thermostat-7 --state Disabled
  rollcall client update gateway --attribute floor=4`,
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var c clientJSON
			if err := a.get(cmd.Context(), a.arm(clientPath(args[0])), &c); err != nil {
				return err
			}
			if clear {
				c.Properties.Attributes = nil
			}
			if err := f.apply(cmd, &c.Properties); err != nil {
				return err
			}
			c.Name, c.Properties.ProvisioningState = "", ""
			if _, err := a.do(cmd.Context(), http.MethodPut, a.arm(clientPath(args[0])), c, nil); err != nil {
				return err
			}
			return f.after(cmd.Context(), cmd, a, args[0])
		},
	}
	f.add(cmd, false)
	cmd.Flags().BoolVar(&clear, "clear-attributes", false, "drop all attributes first")
	return cmd
}

func clientList(t *target) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "list", Short: "List clients by name", Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			all, err := list[clientJSON](cmd.Context(), a, "/clients")
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), all)
			}
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "NAME\tAUTHENTICATION NAME\tSTATE\tSCHEME\tATTRIBUTES")
			for _, c := range all {
				scheme := ""
				if c.Properties.Certificate != nil {
					scheme = c.Properties.Certificate.ValidationScheme
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", c.Name, c.Properties.AuthenticationName, c.Properties.State, scheme,
					strconv.Itoa(len(c.Properties.Attributes)))
			}
			return w.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func clientShow(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "show NAME", Short: "Print a client as JSON", Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			var c json.RawMessage
			if err := a.get(cmd.Context(), a.arm(clientPath(args[0])), &c); err != nil {
				return err
			}
			return printJSON(cmd.OutOrStdout(), c)
		},
	}
}

func clientDelete(t *target) *cobra.Command {
	return &cobra.Command{
		Use: "delete NAME", Short: "Delete a client; its sessions end at once", Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			a, err := t.open(cmd.Context())
			if err != nil {
				return err
			}
			status, err := a.do(cmd.Context(), http.MethodDelete, a.arm(clientPath(args[0])), nil, nil)
			if err == nil && status == http.StatusNoContent {
				fmt.Fprintf(cmd.ErrOrStderr(), "there was no client %s\n", args[0])
			}
			return err
		},
	}
}
