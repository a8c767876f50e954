package arm

import (
	"net/http"
	"slices"
	"strings"

	"rollcall/internal/fault"
)

// Types that the original has and we do not.
var (
	laterTypes = []string{
		"topics", "domains", "systemtopics", "partnernamespaces", "partnertopics", "partnerregistrations", "partnerconfigurations",
		"partnerdestinations", "verifiedpartners", "topictypes", "extensiontopics", "eventtypes", "operations",
	}
	laterCollections = []string{
		"clientgroups", "topicspaces", "permissionbindings", "topics", "privateendpointconnections", "privatelinkresources",
		"networksecurityperimeterconfigurations",
	}
	laterActions = []string{"listkeys", "regeneratekey", "validatecustomdomainownership"}
)

// resource serves what is at ids of the resource manager.
func (a *API) resource(q *request) error {
	id, err := parseID(q.segs)
	if err != nil {
		return err
	}
	if len(id.blocks) == 0 {
		if err := q.checkManagerVersion(); err != nil {
			return err
		}
		return a.account(q, id)
	}
	version, err := q.version()
	if err != nil {
		return err
	}
	last := id.last()
	if !strings.EqualFold(last.provider, provider) {
		return fault.New(fault.InvalidType, "The resource provider '%.100s' is not served; '%s' is.", last.provider, provider)
	}
	kind := last.types()
	if kind == "" {
		kind = strings.ToLower(id.tail)
	}
	if err := checkVersion(version, kind); err != nil {
		return err
	}
	if kind == "" {
		return fault.New(fault.NotFound, "There is nothing at this path; a resource type is expected after '%s'.", provider)
	}
	if len(id.blocks) > 1 || kind == "eventsubscriptions" {
		return a.extension(q, id)
	}
	return a.eventGrid(q, id)
}

// eventGrid serves our types that are not extensions of other resources.
func (a *API) eventGrid(q *request, id resourceID) error {
	b, tail := id.last(), strings.ToLower(id.tail)
	switch types := b.types(); {
	case types == "" && tail == "namespaces":
		if err := a.checkScope(id, fault.NotFound); err != nil {
			return err
		}
		return q.by(methods{http.MethodGet: a.listNamespaces})
	case types == "namespaces":
		if err := a.checkScope(id, parentIf(tail != "")); err != nil {
			return err
		}
		return a.belowNamespace(q, b.name(0), id)
	case types == "namespaces/clients" && tail == "":
		if err := a.checkNamespace(id); err != nil {
			return err
		}
		return a.client(q, b.name(1))
	case types == "namespaces/cacertificates" && tail == "":
		if err := a.checkNamespace(id); err != nil {
			return err
		}
		return a.caCertificate(q, b.name(1))
	case types == "locations/operationsstatus" && tail == "":
		if err := a.checkScope(id, fault.NotFound); err != nil {
			return err
		}
		return q.by(methods{http.MethodGet: func(q *request) error { return a.operation(q, b.name(0), b.name(1)) }})
	}
	return unserved(q, id)
}

// belowNamespace serves a namespace, a collection in it or an action on it.
func (a *API) belowNamespace(q *request, name string, id resourceID) error {
	tail := strings.ToLower(id.tail)
	if err := a.checkName(name, parentIf(tail != "")); err != nil {
		return err
	}
	switch {
	case tail == "":
		return a.namespace(q)
	case tail == "clients":
		return q.by(methods{http.MethodGet: a.listClients})
	case tail == "cacertificates":
		return q.by(methods{http.MethodGet: a.listCACertificates})
	case slices.Contains(laterActions, tail):
		return fault.New(fault.InvalidType, "The action '%s' of namespaces is not available.", id.tail)
	}
	return unserved(q, id)
}

// unserved says that a type is not served: as absent where it is read, as a
// mistake where it is written.
func unserved(q *request, id resourceID) error {
	kinds := make([]string, 0, 4)
	for _, p := range id.last().pairs {
		kinds = append(kinds, p.kind)
	}
	if id.tail != "" {
		kinds = append(kinds, id.tail)
	}
	kind := strings.Join(kinds, "/")
	code := fault.InvalidType
	if q.r.Method == http.MethodGet || q.r.Method == http.MethodHead {
		code = fault.NotFound
	}
	first, rest, _ := strings.Cut(strings.ToLower(kind), "/")
	below, _, _ := strings.Cut(rest, "/")
	if slices.Contains(laterTypes, first) || first == "namespaces" && slices.Contains(laterCollections, below) {
		return fault.New(code, "The resource type '%s/%.100s' is not available here yet.", provider, kind)
	}
	return fault.New(code, "The resource type '%.100s' could not be found in '%s'.", kind, provider)
}

// parentIf is the code for what is missing above the resource asked for.
func parentIf(child bool) fault.Code {
	if child {
		return fault.ParentNotFound
	}
	return fault.NotFound
}

// checkScope refuses subscriptions and resource groups other than ours.
func (a *API) checkScope(id resourceID, code fault.Code) error {
	if !strings.EqualFold(id.subscription, a.o.SubscriptionID) {
		return fault.New(code, "The subscription '%.100s' was not found; this server has '%s'.", id.subscription, a.o.SubscriptionID)
	}
	if id.group != "" && !strings.EqualFold(id.group, a.o.ResourceGroup) {
		return fault.New(code, "The resource group '%.100s' was not found; this server has '%s'.", id.group, a.o.ResourceGroup)
	}
	if id.group == "" && len(id.blocks) > 0 && strings.HasPrefix(id.blocks[0].types(), "namespaces") {
		return fault.New(code, "Namespaces are in a resource group: %s.", a.namespaceID())
	}
	return nil
}

func (a *API) checkName(namespace string, code fault.Code) error {
	if !strings.EqualFold(namespace, a.o.Namespace) {
		return fault.New(code, "The namespace '%.100s' was not found; this server has %s.", namespace, a.namespaceID())
	}
	return nil
}

// checkNamespace refuses what is below other namespaces than ours.
func (a *API) checkNamespace(id resourceID) error {
	if err := a.checkScope(id, fault.ParentNotFound); err != nil {
		return err
	}
	return a.checkName(id.blocks[0].name(0), fault.ParentNotFound)
}
