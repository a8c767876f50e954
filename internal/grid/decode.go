package grid

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"rollcall/internal/delivery"
	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
	"rollcall/internal/filter"
)

// DecodeProperties reads the properties object of a PUT. Members that are read
// only are passed over; those that are unknown, or that name a feature that
// does not exist here, are mistakes. All mistakes are reported at once.
func DecodeProperties(data []byte) (Properties, error) {
	var bad fault.List
	patch := decode(data, &bad)
	if patch.Destination == nil && len(bad) == 0 {
		bad.Add(fault.At("properties.destination", "A destination is required."))
	}
	return patch.Apply(Properties{}), bad.Err()
}

// DecodePatch reads the body of a PATCH, which is flat: the members of
// properties without the wrapper. What it does not name stays, within the
// destination, the filter and the retry policy too. Null resets labels, filter,
// expiration and retry policy.
func DecodePatch(data []byte) (Patch, error) {
	var bad fault.List
	return decode(data, &bad), bad.Err()
}

func decode(data []byte, bad *fault.List) Patch {
	var p Patch
	o := newObject("properties", data, bad)
	o.readOnly("topic", "provisioningState")
	o.absent("deliveryWithResourceIdentity", "Managed identities are not supported; use destination.")
	o.absent("deadLetterWithResourceIdentity", "Managed identities are not supported; use rollcall.deadLetterDirectory.")
	o.absent("deadLetterDestination", "Dead-lettering to blobs is not supported; use rollcall.deadLetterDirectory.")
	if raw, ok := o.take("destination"); ok && !null(raw) {
		p.Destination = decodeDestination(raw, bad)
	}
	if raw, ok := o.take("filter"); ok {
		p.Filter = decodeFilter(raw, bad)
	}
	if raw, ok := o.take("labels"); ok {
		p.Labels = new([]string)
		o.into("labels", raw, p.Labels, "A list of strings")
	}
	if raw, ok := o.take("expirationTimeUtc"); ok {
		p.Expiration = new(time.Time)
		if !null(raw) {
			var text string
			t, err := time.Time{}, json.Unmarshal(raw, &text)
			if err == nil {
				t, err = parseTime(text)
			}
			if err != nil {
				bad.Add(fault.At("properties.expirationTimeUtc", "Invalid expiration time."))
			}
			*p.Expiration = t
		}
	}
	if raw, ok := o.take("eventDeliverySchema"); ok && !null(raw) {
		var name string
		if o.into("eventDeliverySchema", raw, &name, "A string") {
			s, known := event.ParseSchema(name)
			if !known {
				bad.Add(fault.At("properties.eventDeliverySchema", "%q is not supported; EventGridSchema and CloudEventSchemaV1_0 are.", name))
			}
			p.Schema = &s
		}
	}
	if raw, ok := o.take("retryPolicy"); ok {
		p.Retry = decodeRetry(raw, bad)
	}
	if raw, ok := o.take("rollcall"); ok && !null(raw) {
		decodeOwn(raw, &p, bad)
	}
	o.finish()
	return p
}

func decodeOwn(raw json.RawMessage, p *Patch, bad *fault.List) {
	o := newObject("properties.rollcall", raw, bad)
	if raw, ok := o.take("deadLetterDirectory"); ok {
		p.DeadLetterDirectory = new(string)
		o.into("deadLetterDirectory", raw, p.DeadLetterDirectory, "A string")
	}
	if raw, ok := o.take("paused"); ok {
		p.Paused = new(bool)
		o.into("paused", raw, p.Paused, "True or false")
	}
	o.finish()
}

func decodeDestination(raw json.RawMessage, bad *fault.List) func(WebHook) WebHook {
	var w WebHook
	o := newObject("properties.destination", raw, bad)
	kind := o.text("endpointType")
	body, _ := o.take("properties")
	o.finish()
	if !strings.EqualFold(kind, "WebHook") {
		if kind == "" {
			bad.Add(fault.At("properties.destination.endpointType", "An endpoint type is required."))
		} else {
			bad.Add(fault.At("properties.destination.endpointType", "%q is not supported; WebHook is.", kind))
		}
		return func(WebHook) WebHook { return w }
	}
	o = newObject("properties.destination.properties", body, bad)
	named := o.names("endpointUrl", "maxEventsPerBatch", "preferredBatchSizeInKilobytes", "deliveryAttributeMappings")
	w.EndpointURL = Secret(o.text("endpointUrl"))
	if shown := o.text("endpointBaseUrl"); w.EndpointURL == "" {
		w.shown = shown
	}
	w.MaxEventsPerBatch = o.count("maxEventsPerBatch", 1, 5000)
	w.PreferredBatchKB = o.count("preferredBatchSizeInKilobytes", 1, 1024)
	for _, name := range []string{"azureActiveDirectoryTenantId", "azureActiveDirectoryApplicationIdOrUri"} {
		if o.text(name) != "" {
			bad.Add(fault.At(o.path+"."+name, "Protected webhooks are not supported; use a static Authorization header."))
		}
	}
	if v := o.text("minimumTlsVersionAllowed"); v != "" && v != "1.2" {
		bad.Add(fault.At(o.path+".minimumTlsVersionAllowed", "%q is not supported; it is always 1.2.", v))
	}
	if raw, ok := o.take("deliveryAttributeMappings"); ok && !null(raw) {
		w.Attributes = decodeAttributes(o, raw, bad)
	}
	o.finish()
	unnamed := !named["endpointUrl"] && w.shown == ""
	return func(old WebHook) WebHook {
		old.unnamed = unnamed
		if named["endpointUrl"] || w.shown != "" && !old.shows(w.shown) {
			old.EndpointURL, old.shown = w.EndpointURL, w.shown
		}
		if named["maxEventsPerBatch"] {
			old.MaxEventsPerBatch = w.MaxEventsPerBatch
		}
		if named["preferredBatchSizeInKilobytes"] {
			old.PreferredBatchKB = w.PreferredBatchKB
		}
		if named["deliveryAttributeMappings"] {
			old.Attributes = w.Attributes
		}
		return old
	}
}

func decodeAttributes(o *object, raw json.RawMessage, bad *fault.List) []webhook.Attribute {
	var list []json.RawMessage
	if !o.into("deliveryAttributeMappings", raw, &list, "A list") {
		return nil
	}
	var attributes []webhook.Attribute
	for i, raw := range list {
		at := newObject(indexed(o.path+".deliveryAttributeMappings", i), raw, bad)
		a := webhook.Attribute{Name: at.text("name")}
		kind := at.text("type")
		body, _ := at.take("properties")
		at.finish()
		in := newObject(at.path+".properties", body, bad)
		switch {
		case strings.EqualFold(kind, "Static"):
			a.Value = in.text("value")
			if raw, ok := in.take("isSecret"); ok && !null(raw) {
				in.into("isSecret", raw, &a.Secret, "True or false")
			}
		case strings.EqualFold(kind, "Dynamic"):
			a.SourceField = in.text("sourceField")
			if a.SourceField == "" {
				bad.Add(fault.At(in.path+".sourceField", "A source field is required."))
			}
		default:
			bad.Add(fault.At(at.path+".type", "%q is not Static or Dynamic.", kind))
			continue
		}
		in.finish()
		attributes = append(attributes, a)
	}
	return attributes
}

func decodeFilter(raw json.RawMessage, bad *fault.List) func(filter.Filter) filter.Filter {
	var f filter.Filter
	if null(raw) {
		return func(filter.Filter) filter.Filter { return f }
	}
	o := newObject("properties.filter", raw, bad)
	named := o.names("includedEventTypes", "subjectBeginsWith", "subjectEndsWith", "isSubjectCaseSensitive")
	if raw, ok := o.take("includedEventTypes"); ok {
		o.into("includedEventTypes", raw, &f.IncludedEventTypes, "A list of strings")
	}
	f.SubjectBeginsWith = o.text("subjectBeginsWith")
	f.SubjectEndsWith = o.text("subjectEndsWith")
	if raw, ok := o.take("isSubjectCaseSensitive"); ok && !null(raw) {
		o.into("isSubjectCaseSensitive", raw, &f.IsSubjectCaseSensitive, "True or false")
	}
	if raw, ok := o.take("advancedFilters"); ok && !null(raw) {
		var list []json.RawMessage
		if o.into("advancedFilters", raw, &list, "A list") && len(list) > 0 {
			bad.Add(fault.At(o.path+".advancedFilters", "Advanced filters are not supported."))
		}
	}
	if raw, ok := o.take("enableAdvancedFilteringOnArrays"); ok && !null(raw) {
		var on bool
		if o.into("enableAdvancedFilteringOnArrays", raw, &on, "True or false") && on {
			bad.Add(fault.At(o.path+".enableAdvancedFilteringOnArrays", "Advanced filters are not supported."))
		}
	}
	o.finish()
	return func(old filter.Filter) filter.Filter {
		if named["includedEventTypes"] {
			old.IncludedEventTypes = f.IncludedEventTypes
		}
		if named["subjectBeginsWith"] {
			old.SubjectBeginsWith = f.SubjectBeginsWith
		}
		if named["subjectEndsWith"] {
			old.SubjectEndsWith = f.SubjectEndsWith
		}
		if named["isSubjectCaseSensitive"] {
			old.IsSubjectCaseSensitive = f.IsSubjectCaseSensitive
		}
		return old
	}
}

func decodeRetry(raw json.RawMessage, bad *fault.List) func(delivery.RetryPolicy) delivery.RetryPolicy {
	var p delivery.RetryPolicy
	if null(raw) {
		return func(delivery.RetryPolicy) delivery.RetryPolicy { return p }
	}
	o := newObject("properties.retryPolicy", raw, bad)
	named := o.names("maxDeliveryAttempts", "eventTimeToLiveInMinutes")
	p.MaxAttempts = o.count("maxDeliveryAttempts", 1, maxAttempts)
	p.TTL = time.Duration(o.count("eventTimeToLiveInMinutes", 1, 1440)) * time.Minute
	o.finish()
	return func(old delivery.RetryPolicy) delivery.RetryPolicy {
		if named["maxDeliveryAttempts"] {
			old.MaxAttempts = p.MaxAttempts
		}
		if named["eventTimeToLiveInMinutes"] {
			old.TTL = p.TTL
		}
		return old
	}
}

// parseTime reads an RFC 3339 time; without an offset it is UTC.
func parseTime(text string) (time.Time, error) {
	t, err := time.Parse(time.RFC3339Nano, text)
	if err != nil {
		if t, err = time.Parse("2006-01-02T15:04:05.999999999", text); err != nil {
			return time.Time{}, err
		}
	}
	return t.UTC(), nil
}

// sortedNames returns the keys of m in order, so that mistakes are reported in
// the same order every time.
func sortedNames(m map[string]json.RawMessage) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
