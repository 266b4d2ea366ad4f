// Package embedded runs the store that Larder starts when it is given no Redis: miniredis, in this process, reached by
// the same code through the same client. It listens on no port, holds everything in memory and ends with the process.
package embedded

import (
	"net"

	"github.com/alicebob/miniredis/v2"
)

// Server is an embedded store.
type Server struct{ m *miniredis.Miniredis }

// Start starts a store whose expiries follow the clock.
func Start() (*Server, error) {
	m := miniredis.NewMiniRedis()
	m.ClockTTL(true)
	return &Server{m: m}, nil
}

// Dial returns a connection to the store.
func (s *Server) Dial() (net.Conn, error) { return s.m.Dial() }

// Close ends the store and forgets its data.
func (s *Server) Close() { s.m.Close() }
