package app

import (
	"rollcall/internal/arm"
	"rollcall/internal/event"
)

// refusals are the broker's, as the control plane shows them.
func (s *Server) refusals(limit int) []arm.Refusal {
	var all []arm.Refusal
	for _, r := range s.broker.Refusals(limit) {
		x := arm.Refusal{Time: event.Time{Time: r.Time}, Remote: r.Remote, Transport: r.Transport, ClientID: r.ClientID, UserName: r.UserName,
			Reason: r.Reason, Detail: r.Text}
		if r.HasCode {
			x.Code = r.Code.String()
		}
		all = append(all, x)
	}
	return all
}
