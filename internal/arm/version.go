package arm

import (
	"regexp"
	"slices"
	"strings"

	"rollcall/internal/fault"
)

// versions are the api-versions served, oldest first. What is served is the
// same in all: the shapes in use did not change.
var versions = []string{
	"2022-06-15", "2023-06-01-preview", "2023-12-15-preview", "2024-06-01-preview",
	"2024-12-15-preview", "2025-02-15", "2025-04-01-preview", "2025-07-15-preview",
}

// anyVersion is what versions of the resource manager itself look like.
var anyVersion = regexp.MustCompile(`^[0-9]{4}-[0-9]{2}-[0-9]{2}(-[a-z]+)?$`)

// checkVersion refuses a version that is not served for a type of ours.
func checkVersion(v, kind string) error {
	if !slices.Contains(versions, v) {
		return fault.New(fault.UnknownAPIVersion,
			"No registered resource provider found for API version '%.40s' and type '%.100s'. The supported api-versions are '%s'.",
			v, kind, strings.Join(versions, ", "))
	}
	return nil
}

// checkManagerVersion refuses requests about subscriptions and resource groups
// without anything that could be a version: they have versions of their own.
func (q *request) checkManagerVersion() error {
	v, err := q.version()
	if err != nil {
		return err
	}
	if !anyVersion.MatchString(v) {
		return fault.New(fault.UnknownAPIVersion, "'%.40s' is not an API version; it looks like 2022-12-01.", v)
	}
	return nil
}

func (q *request) version() (string, error) {
	v := strings.ToLower(q.param("api-version"))
	if v == "" {
		return "", fault.New(fault.MissingAPIVersion,
			"The api-version query parameter (?api-version=) is required for all requests, for instance ?api-version=2025-02-15.")
	}
	return v, nil
}
