// Package packet is the wire codec of MQTT 3.1.1 and MQTT 5.0.
//
// It promises three things. What it accepts is legal: every rule that one
// packet alone can break (lengths, reserved bits, UTF-8, properties, reason
// codes, combinations of flags) is checked while decoding and reported as an
// [*Error] that carries the MQTT 5 reason code and the clause. What it emits
// is legal: encoders refuse what the decoder of the other side would refuse,
// except that text is not checked for UTF-8 a second time. And it is pure: no
// input makes it panic, it keeps no state, starts nothing and reads no clock,
// so everything here may be called concurrently on different values.
//
// Reason codes and field names are those of MQTT 5; for 3.1.1 they are
// translated here and nowhere else (returncode.go). What MQTT 5 added and 3.1.1
// cannot express is left out silently when a packet is encoded for 3.1.1,
// because one message is forwarded to clients of both.
//
// Aliasing: after Decode every []byte of a packet points into the frame;
// strings are copies. Clone a packet before the frame's buffer is reused.
// Decoding into a used struct overwrites all of it and reuses its slices, so
// that PUBLISH and the acknowledgements decode without allocation.
//
// Rules that need more than one packet are the session's: which packets may
// come when, identifiers in use, aliases, Receive Maximum. Rules about who
// sent a packet are in [CheckFromClient] and [CheckFromServer].
package packet
