package setting

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
)

// IsAddr reports whether addr is host:port with a numeric port, which a server can listen on. The host may be empty, which
// means every interface; port 0 means any free port.
func IsAddr(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	_, notNumber := strconv.ParseUint(port, 10, 16)
	return err == nil && notNumber == nil
}

// DialAddr returns the address at which this machine reaches a server that listens on addr: loopback if addr means every
// interface, such as ":50051", "0.0.0.0:50051" or "[::]:50051", else addr itself. It fails if addr is not host:port.
func DialAddr(addr string) (string, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return "", errors.New("the address must be host:port")
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
		if ip.Is6() {
			host = "::1"
		}
	}
	return net.JoinHostPort(host, port), nil
}
