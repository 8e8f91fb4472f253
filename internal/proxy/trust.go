package proxy

import (
	"net/netip"
)

// networks are the networks that something is believed of. The zero value is none.
type networks []netip.Prefix

// newNetworks takes the prefixes as addresses are compared with them: an IPv4 network is
// one, whichever way it is written.
func newNetworks(prefixes []netip.Prefix) networks {
	out := make(networks, 0, len(prefixes))
	for _, prefix := range prefixes {
		if addr := prefix.Addr(); addr.Is4In6() && prefix.Bits() >= 96 {
			prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
		}
		out = append(out, prefix.Masked())
	}
	return out
}

// contains says whether an address (10.0.0.7:1234, as [net/http.Request.RemoteAddr] has it)
// is in one of the networks. It allocates nothing, and costs nothing where there is none.
func (n networks) contains(hostPort string) bool {
	if len(n) == 0 {
		return false
	}
	addr, err := netip.ParseAddrPort(hostPort)
	return err == nil && n.containsAddr(addr.Addr())
}

// containsAddr is contains for an address that is parsed.
func (n networks) containsAddr(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	for _, network := range n {
		if network.Contains(addr) {
			return true
		}
	}
	return false
}
