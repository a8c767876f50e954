package app

import (
	"encoding/json"
	"path/filepath"
)

// ReadyInfo says how to reach a server that listens. It holds secrets, so the
// files it is written to have mode 0600.
type ReadyInfo struct {
	Endpoints
	CA        string            `json:"ca"` // file of the CA's certificate; empty: the operator's certificate is used
	Token     string            `json:"token"`
	Keys      map[string]string `json:"keys"`
	Namespace string            `json:"namespace"` // resource id
	PID       int               `json:"pid"`
}

// ServerFile is where a data directory tells the command line how to reach its
// server.
func ServerFile(data string) string { return filepath.Join(data, "server.json") }

// Info returns what the ready file holds.
func (s *Server) Info(pid int) ReadyInfo {
	return ReadyInfo{
		Endpoints: s.Endpoints(), CA: s.CAFile(), Token: s.keys.Token,
		Keys:      map[string]string{"controlPlane": s.keys.Token},
		Namespace: s.cfg.Resource.NamespaceID(), PID: pid,
	}
}

// WriteInfo writes what the ready file holds to file, mode 0600, whole or not
// at all.
func (i ReadyInfo) WriteInfo(file string) error {
	text, err := json.Marshal(i)
	if err != nil {
		return err
	}
	return writePrivate(file, append(text, '\n'))
}
