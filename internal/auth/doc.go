// Package auth proves who somebody is: it verifies password hashes, reads the
// names in client certificates and compares thumbprints. It has no policy: what
// a proof is good for is decided by its callers.
//
// Its promises: no more passwords are hashed at once than there are cores, who
// waits for a turn waits within bounds, and a failure takes as long for a name
// that nobody has as for a wrong password. No function keeps or logs a password.
package auth
