package differential

import (
	"fmt"
	"slices"
)

// What differs from mosquitto 2.0.11 and may:
//
// Reason code 0x10 of PUBACK and PUBREC (3.4.2.1: "may") is not looked at, nor
// what CONNACK announces, packet identifiers and DUP: what has been sent and
// not acknowledged before a connection broke is for the server to know.
//
// takeOverWill: mosquitto publishes no Will of a connection that is taken over
// while its session goes on, also if it has no delay. 3.1.4 of 5.0 says that the
// Will of the connection that is closed is published according to 3.1.2.5;
// [MQTT-3.1.2-8] knows no exception but DISCONNECT. Such steps are not taken
// (step.legalConnect), because a retained Will would make everything differ
// that follows. The broker's own tests have them.
//
// replaced: when a client subscribes to a filter again, mosquitto goes by the
// No Local and Retain As Published of the first time; [MQTT-3.8.4-3] has the new
// subscription replace the old one. Such steps are not taken (model.legal).
//
// ownRetained: mosquitto sends retained messages to the client that published
// them despite No Local; [MQTT-3.8.3-3] makes no exception for them. Such steps
// are not taken.
//
// order: mosquitto routes and retains a QoS 2 message when PUBREL comes, after
// those of QoS 0 and 1 that were published meanwhile. 4.6 orders the messages of
// one QoS. Order is compared by QoS, and a client does not retain two messages
// of different QoS for a topic at once, nor publish in both ways what a window
// that is full has to choose from.
//
// expiredBlocks: messages that expire in mosquitto's queue for a client with a
// small Receive Maximum can keep those behind them from ever being sent. Where
// messages expire, Receive Maximum is not small.
//
// expiredAgain: a message that was sent and not acknowledged, and has expired
// since, mosquitto does not send again when the client is back. [MQTT-4.4.0-1]
// has all of those sent again; [MQTT-3.3.2-5] deletes only copies whose onward
// delivery has not begun.
//
// lastSecond: mosquitto counts seconds of the clock, and sends a message that
// expires in this one without its Message Expiry Interval, which
// [MQTT-3.3.2-6] wants.
//
// delayedWill: mosquitto forgets a Will that waits when its session ends before
// the delay is over, by Clean Start or DISCONNECT; [MQTT-3.1.3-9] has it published
// then. Such steps are not taken.
//
// takenOver: what a connection hears while it is being taken over, as its own
// Will, is not looked at: it is closed anyway. mosquitto may even choose it to
// get its Will by a shared subscription; so those get none.

// sameAnswers compares answers. mosquitto does not always send the DISCONNECT
// 0x8E to a client of version 5 whose session is taken over that [MQTT-3.1.4-3]
// demands; it closes.
func sameAnswers(theirs, ours []string) bool {
	return slices.EqualFunc(theirs, ours, func(t, o string) bool {
		return t == o || t == "taken over: closed" && o == "taken over: DISCONNECT 0x8e"
	})
}

// overlapping leaves out of a message that several subscriptions of the client
// matched what mosquitto, which sends it for the first one it finds, tells of
// that one only: [MQTT-3.3.4-3] wants the identifiers of all, and RETAIN is
// kept if any of them says so (3.8.3.1).
func overlapping(h heard) heard {
	h.ids, h.retain = nil, false
	return h
}

// once leaves one of the copies of a message that mosquitto sends a client of
// version 5 for each subscription that matches, whatever
// allow_duplicate_messages says. 3.3.4 permits both; Rollcall sends one. Empty
// messages look alike, so they are treated so on both sides; empty: only they.
func (y *memory) once(s *step, client int, list []heard, empty bool) (left []heard) {
	if s.do == subscribe { // those are retained ones, and wanted for each filter
		return list
	}
	seen := make(map[string]bool)
	for _, h := range list {
		k := key(h.topic, h.payload)
		if y.overlaps[k][client] > 1 && (!empty || h.payload == "") {
			if seen[k] {
				continue
			}
			seen[k] = true
		}
		left = append(left, h)
	}
	return left
}

// judgePool compares what came by shared subscriptions, of which want have
// members. If one client has several that match, mosquitto without
// allow_duplicate_messages sends it one of the copies, depending on the version;
// 4.8.2 makes each shared subscription one of its own.
func judgePool(theirs, ours []string, want int) string {
	switch {
	case len(ours) != want, len(theirs) > len(ours), len(theirs) == 0 && len(ours) > 0:
		return fmt.Sprintf("%d copies instead of %d", len(ours), want)
	case len(theirs) > 0 && theirs[0] != ours[0]:
		return "another copy"
	}
	return ""
}
