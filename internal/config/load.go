package config

import (
	"bytes"
	"encoding"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/goccy/go-yaml"
)

// EnvPrefix begins the name of every environment variable that is a setting.
const EnvPrefix = "ROLLCALL_"

// Load returns the defaults of the profile, overlaid by the YAML file (empty:
// none) and by environ ("NAME=value" as os.Environ gives it). An unknown key
// of the file and an unknown ROLLCALL_ variable are errors. profile, if not
// empty, is what a flag says. The result is not validated yet: flags may
// follow.
func Load(file string, environ []string, profile string) (Config, error) {
	var text []byte
	if file != "" {
		var err error
		if text, err = os.ReadFile(file); err != nil {
			return Config{}, fmt.Errorf("read the configuration: %w", err)
		}
	}
	env := environment(environ)
	p, err := pickProfile(text, env, profile)
	if err != nil {
		return Config{}, fmt.Errorf("%s: %w", file, err)
	}
	c := Default(p)
	if len(bytes.TrimSpace(text)) > 0 {
		if err := yaml.NewDecoder(bytes.NewReader(text), yaml.Strict()).Decode(&c); err != nil && !errors.Is(err, io.EOF) {
			return Config{}, fmt.Errorf("%s: %s", file, yaml.FormatError(err, false, true))
		}
	}
	known := make(map[string]reflect.Value)
	leaves(reflect.ValueOf(&c).Elem(), strings.TrimSuffix(EnvPrefix, "_"), known)
	for name, value := range env {
		field, ok := known[name]
		if !ok {
			return Config{}, fmt.Errorf("the environment variable %s names no setting", name)
		}
		if err := set(field, value); err != nil {
			return Config{}, fmt.Errorf("the environment variable %s: %w", name, err)
		}
	}
	c.Profile = p
	return c, nil
}

// pickProfile finds the profile before anything else, because defaults hang
// on it.
func pickProfile(text []byte, env map[string]string, flag string) (Profile, error) {
	p := string(Open)
	var head struct {
		Profile string `yaml:"profile"`
	}
	if len(bytes.TrimSpace(text)) > 0 {
		if err := yaml.Unmarshal(text, &head); err != nil {
			return "", errors.New(yaml.FormatError(err, false, true))
		}
	}
	for _, v := range []string{head.Profile, env[EnvPrefix+"PROFILE"], flag} {
		if v != "" {
			p = v
		}
	}
	return Profile(p), nil
}

// clientVariables are read by the command line as a client, not by the server.
var clientVariables = map[string]bool{
	EnvPrefix + "URL": true, EnvPrefix + "TOKEN": true, EnvPrefix + "CONFIG": true, EnvPrefix + "CA": true,
}

func environment(environ []string) map[string]string {
	env := make(map[string]string)
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, EnvPrefix) && !clientVariables[name] {
			env[name] = value
		}
	}
	return env
}

// leaves maps the environment name of every setting to its field:
// mqtt.maxKeepAlive is ROLLCALL_MQTT_MAX_KEEP_ALIVE.
func leaves(v reflect.Value, prefix string, into map[string]reflect.Value) {
	t := v.Type()
	for i := range t.NumField() {
		key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
		if key == "" || key == "-" {
			continue
		}
		name := prefix + "_" + screaming(key)
		f := v.Field(i)
		if f.Kind() == reflect.Struct {
			leaves(f, name, into)
			continue
		}
		into[name] = f
	}
}

func screaming(key string) string {
	var b strings.Builder
	for _, r := range key {
		if unicode.IsUpper(r) {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToUpper(r))
	}
	return b.String()
}

// Variables lists the environment variables there are, sorted by the order of
// the settings.
func Variables() []string {
	c := Default(Open)
	var names []string
	var walk func(reflect.Type, string)
	walk = func(t reflect.Type, prefix string) {
		for i := range t.NumField() {
			key, _, _ := strings.Cut(t.Field(i).Tag.Get("yaml"), ",")
			if key == "" || key == "-" {
				continue
			}
			name := prefix + "_" + screaming(key)
			if t.Field(i).Type.Kind() == reflect.Struct {
				walk(t.Field(i).Type, name)
				continue
			}
			names = append(names, name)
		}
	}
	walk(reflect.TypeOf(c), strings.TrimSuffix(EnvPrefix, "_"))
	return names
}

var durationType = reflect.TypeFor[time.Duration]()

// set gives a field the value that text stands for. Lists are separated by
// commas; an empty text is an empty list.
func set(f reflect.Value, text string) error {
	if f.Kind() == reflect.Pointer {
		p := reflect.New(f.Type().Elem())
		if err := set(p.Elem(), text); err != nil {
			return err
		}
		f.Set(p)
		return nil
	}
	if u, ok := f.Addr().Interface().(encoding.TextUnmarshaler); ok {
		return u.UnmarshalText([]byte(text))
	}
	switch {
	case f.Type() == durationType:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 30s or 5m", text)
		}
		f.SetInt(int64(d))
		return nil
	case f.Kind() == reflect.Slice:
		return setList(f, text)
	}
	switch f.Kind() {
	case reflect.String:
		f.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is neither true nor false", text)
		}
		f.SetBool(b)
	case reflect.Int, reflect.Int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		f.SetInt(n)
	case reflect.Float64:
		n, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("%q is not a number", text)
		}
		f.SetFloat(n)
	default:
		return fmt.Errorf("it cannot be set from the environment")
	}
	return nil
}

func setList(f reflect.Value, text string) error {
	list := reflect.MakeSlice(f.Type(), 0, 4)
	if text != "" {
		for item := range strings.SplitSeq(text, ",") {
			e := reflect.New(f.Type().Elem()).Elem()
			if err := set(e, strings.TrimSpace(item)); err != nil {
				return err
			}
			list = reflect.Append(list, e)
		}
	}
	f.Set(list)
	return nil
}
