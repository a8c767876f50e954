package registry

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"
)

// recordVersion begins every stored record of this package.
const recordVersion = 1

var errRecord = errors.New("registry: malformed record")

// clientRecord is a client as it is stored. Its name is in the key.
type clientRecord struct {
	Client
	hash  string // of the password, empty: none
	birth string // mark of the write that created it
	mark  string // of the newest write
}

// caRecord is a CA certificate as it is stored.
type caRecord struct {
	CA
	mark string
}

// owedRecord says that an event is owed, and which.
type owedRecord struct {
	kind   ChangeKind
	client Client
}

// The values of attributes, as they are stored.
const (
	valueString byte = 1
	valueInt    byte = 2
	valueFalse  byte = 3
	valueTrue   byte = 4
	valueList   byte = 5
)

// encoder appends fields; decoder takes them off in the same order.
type encoder struct{ buf []byte }

func newEncoder() *encoder {
	return &encoder{buf: append(make([]byte, 0, 256), recordVersion)}
}

func (e *encoder) byte(v byte)   { e.buf = append(e.buf, v) }
func (e *encoder) uint(v uint64) { e.buf = binary.AppendUvarint(e.buf, v) }
func (e *encoder) str(s string)  { e.uint(uint64(len(s))); e.buf = append(e.buf, s...) }
func (e *encoder) time(t time.Time) {
	e.buf = binary.BigEndian.AppendUint64(e.buf, uint64(t.UnixNano()))
}

func (e *encoder) list(l []string) {
	e.uint(uint64(len(l)))
	for _, s := range l {
		e.str(s)
	}
}

func (e *encoder) attributes(m map[string]any) {
	e.uint(uint64(len(m)))
	for _, key := range slices.Sorted(maps.Keys(m)) {
		e.str(key)
		switch v := m[key].(type) {
		case string:
			e.byte(valueString)
			e.str(v)
		case int64:
			e.byte(valueInt)
			e.buf = binary.AppendVarint(e.buf, v)
		case bool:
			if v {
				e.byte(valueTrue)
			} else {
				e.byte(valueFalse)
			}
		case []string:
			e.byte(valueList)
			e.list(v)
		}
	}
}

func (e *encoder) client(c *Client) {
	e.str(c.AuthenticationName)
	e.str(c.Description)
	e.str(string(c.State))
	e.str(string(c.ValidationScheme))
	e.list(c.AllowedThumbprints)
	e.attributes(c.Attributes)
	e.time(c.CreatedOn)
	e.time(c.UpdatedOn)
}

type decoder struct {
	buf []byte
	bad bool
}

// newDecoder checks the version of a record.
func newDecoder(value []byte) (*decoder, error) {
	d := &decoder{buf: value}
	if v := d.byte(); d.bad || v != recordVersion {
		return nil, fmt.Errorf("%w: version %d", errRecord, v)
	}
	return d, nil
}

func (d *decoder) fail() {
	d.bad = true
	d.buf = nil
}

func (d *decoder) byte() byte {
	if len(d.buf) < 1 {
		d.fail()
		return 0
	}
	v := d.buf[0]
	d.buf = d.buf[1:]
	return v
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) int() int64 {
	v, n := binary.Varint(d.buf)
	if n <= 0 {
		d.fail()
		return 0
	}
	d.buf = d.buf[n:]
	return v
}

func (d *decoder) str() string {
	n := d.uint()
	if uint64(len(d.buf)) < n {
		d.fail()
		return ""
	}
	s := string(d.buf[:n])
	d.buf = d.buf[n:]
	return s
}

func (d *decoder) time() time.Time {
	if len(d.buf) < 8 {
		d.fail()
		return time.Time{}
	}
	v := int64(binary.BigEndian.Uint64(d.buf))
	d.buf = d.buf[8:]
	return time.Unix(0, v).UTC()
}

// count reads how many items follow, each of at least one byte.
func (d *decoder) count() int {
	n := d.uint()
	if n > uint64(len(d.buf)) {
		d.fail()
		return 0
	}
	return int(n)
}

func (d *decoder) list() []string {
	n := d.count()
	if n == 0 {
		return nil
	}
	l := make([]string, n)
	for i := range l {
		l[i] = d.str()
	}
	return l
}

func (d *decoder) attributes() map[string]any {
	n := d.count()
	m := make(map[string]any, n)
	for range n {
		key := d.str()
		switch d.byte() {
		case valueString:
			m[key] = d.str()
		case valueInt:
			m[key] = d.int()
		case valueFalse:
			m[key] = false
		case valueTrue:
			m[key] = true
		case valueList:
			m[key] = append([]string{}, d.list()...)
		default:
			d.fail()
		}
	}
	return m
}

func (d *decoder) client(name string) Client {
	return Client{
		Name: name, AuthenticationName: d.str(), Description: d.str(),
		State: State(d.str()), ValidationScheme: Scheme(d.str()),
		AllowedThumbprints: d.list(), Attributes: d.attributes(),
		CreatedOn: d.time(), UpdatedOn: d.time(), ProvisioningState: Succeeded,
	}
}

func (d *decoder) end() error {
	if d.bad || len(d.buf) != 0 {
		return errRecord
	}
	return nil
}

func (c *clientRecord) encode() []byte {
	e := newEncoder()
	e.client(&c.Client)
	e.str(c.hash)
	e.str(c.birth)
	e.str(c.mark)
	return e.buf
}

func decodeClient(name string, value []byte) (*clientRecord, error) {
	d, err := newDecoder(value)
	if err != nil {
		return nil, err
	}
	c := &clientRecord{Client: d.client(name), hash: d.str(), birth: d.str(), mark: d.str()}
	c.HasPassword = c.hash != ""
	return c, d.end()
}

func (c *caRecord) encode() []byte {
	e := newEncoder()
	e.str(c.Name)
	e.str(c.Description)
	e.str(c.EncodedCertificate)
	e.time(c.CreatedOn)
	e.time(c.UpdatedOn)
	e.str(c.mark)
	return e.buf
}

// decodeCA reads what encode wrote, and the certificate in it.
func decodeCA(value []byte) (*caRecord, error) {
	d, err := newDecoder(value)
	if err != nil {
		return nil, err
	}
	c := &caRecord{CA: CA{Name: d.str(), Description: d.str(), EncodedCertificate: d.str()}}
	c.CreatedOn, c.UpdatedOn, c.mark = d.time(), d.time(), d.str()
	if err := d.end(); err != nil {
		return nil, err
	}
	if err := c.parse(); err != nil {
		return nil, fmt.Errorf("%w: CA certificate %s: %w", errRecord, c.Name, err)
	}
	return c, nil
}

func (o *owedRecord) encode() []byte {
	e := newEncoder()
	e.byte(byte(o.kind))
	e.client(&o.client)
	return e.buf
}

func decodeOwed(name string, value []byte) (*owedRecord, error) {
	d, err := newDecoder(value)
	if err != nil {
		return nil, err
	}
	o := &owedRecord{kind: ChangeKind(d.byte()), client: d.client(name)}
	if o.kind != Upserted && o.kind != Deleted {
		d.fail()
	}
	return o, d.end()
}
