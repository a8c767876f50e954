package topic

import "strings"

// sharePrefix begins the filter of every shared subscription.
const sharePrefix = "$share/"

// ParseShared splits the filter of a shared subscription into its share name
// and the filter proper. For any other filter, shared is false and inner is
// the filter. It returns an [*Error] if the filter begins like a shared
// subscription and is none: an empty share name, one with a wildcard, or
// nothing after it. It does not judge inner.
func ParseShared(filter string) (share, inner string, shared bool, err error) {
	rest, ok := strings.CutPrefix(filter, sharePrefix)
	if !ok {
		return "", filter, false, nil
	}
	share, inner, ok = strings.Cut(rest, "/")
	switch {
	case share == "": // [MQTT-4.8.2-1]
		return "", "", true, &Error{"MQTT-4.8.2-1", "the share name is empty"}
	case HasWildcard(share): // [MQTT-4.8.2-2]
		return "", "", true, &Error{"MQTT-4.8.2-2", "the share name contains a wildcard"}
	case !ok || inner == "":
		return "", "", true, &Error{"MQTT-4.8.2-2", "no topic filter follows the share name"}
	}
	return share, inner, true, nil
}
