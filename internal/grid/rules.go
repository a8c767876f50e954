package grid

import (
	"strings"
	"time"

	"rollcall/internal/delivery/webhook"
	"rollcall/internal/event"
	"rollcall/internal/fault"
)

// Limits of an event subscription.
const (
	minName     = 3
	maxName     = 64
	maxAttempts = 30
	maxTTL      = 24 * time.Hour
	maxLabels   = 100
	maxLabel    = 256 // bytes
)

// ValidateName returns the mistake in the name of a subscription, or nil.
func ValidateName(name string) *fault.Error {
	if len(name) < minName || len(name) > maxName {
		return fault.At("name", "Event subscription name must be between %d and %d characters in length.", minName, maxName)
	}
	for i := range len(name) {
		if c := name[i]; !alphanumeric(c) && c != '-' {
			return fault.At("name", "Event subscription name may contain letters, digits and hyphens only.")
		}
	}
	return nil
}

func alphanumeric(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
}

// validate returns every mistake in p, which has its defaults. Known lists the
// event types of the source, nil if any may occur.
func (g *Grid) validate(p Properties, known []string, now time.Time) fault.List {
	var bad fault.List
	const destination = "properties.destination.properties"
	bad.Add(g.webhooks.Check(destination+".endpointUrl", string(p.Destination.EndpointURL)))
	if n := p.Destination.MaxEventsPerBatch; n < 0 || n > 5000 {
		bad.Add(fault.At(destination+".maxEventsPerBatch", "%d is not between 1 and 5000.", n))
	}
	if n := p.Destination.PreferredBatchKB; n < 0 || n > 1024 {
		bad.Add(fault.At(destination+".preferredBatchSizeInKilobytes", "%d is not between 1 and 1024.", n))
	}
	bad = append(bad, webhook.ValidateAttributes(destination+".deliveryAttributeMappings", p.Destination.Attributes)...)
	bad = append(bad, p.Filter.Validate("properties.filter", known)...)
	if p.Schema != event.EventGrid && p.Schema != event.CloudEvents {
		bad.Add(fault.At("properties.eventDeliverySchema", "The schema is unknown."))
	}
	if n := p.Retry.MaxAttempts; n < 1 || n > maxAttempts {
		bad.Add(fault.At("properties.retryPolicy.maxDeliveryAttempts", "%d is not between 1 and %d.", n, maxAttempts))
	}
	if t := p.Retry.TTL; t < time.Minute || t > maxTTL {
		bad.Add(fault.At("properties.retryPolicy.eventTimeToLiveInMinutes", "%d is not between 1 and 1440.", t/time.Minute))
	}
	if !p.Expiration.IsZero() && !p.Expiration.After(now) {
		bad.Add(fault.At("properties.expirationTimeUtc", "Invalid expiration time."))
	}
	if len(p.Labels) > maxLabels {
		bad.Add(fault.At("properties.labels", "%d labels are more than %d.", len(p.Labels), maxLabels))
	}
	for _, l := range p.Labels {
		if len(l) > maxLabel {
			bad.Add(fault.At("properties.labels", "A label is longer than %d bytes.", maxLabel))
		}
	}
	if d := p.DeadLetterDirectory; d != "" {
		switch {
		case !g.deadLetters:
			bad.Add(fault.At("properties.rollcall.deadLetterDirectory", "No dead-letter root is configured."))
		case !directoryName(d):
			bad.Add(fault.At("properties.rollcall.deadLetterDirectory",
				"%q is not the name of a directory: 1 to 64 letters, digits, hyphens, underscores and dots, not beginning with a dot.", d))
		}
	}
	return bad
}

func directoryName(s string) bool {
	if len(s) > 64 || strings.HasPrefix(s, ".") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !alphanumeric(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}
