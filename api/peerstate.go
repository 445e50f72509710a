package api

import (
	"encoding/binary"
	"net"

	"golang.org/x/sys/unix"
)

// peerStates asks the kernel for the state of TCP sockets of this machine
// (sock_diag(7)). Owned by one goroutine.
type peerStates struct {
	fd  int    // netlink socket; -1: not opened
	seq uint32 // of the newest question
}

// Sizes and offsets of linux/inet_diag.h and linux/netlink.h, in bytes. Numbers
// are in the machine's order but for ports and addresses.
const (
	diagRequest   = unix.SizeofNlMsghdr + 56 // header, inet_diag_req_v2
	diagID        = unix.SizeofNlMsghdr + 8  // inet_diag_sockid: sport, dport, src, dst, if, cookie
	diagState     = unix.SizeofNlMsghdr + 1  // of inet_diag_msg
	diagErrno     = unix.SizeofNlMsghdr      // of nlmsgerr
	diagAnyCookie = ^uint64(0)
)

// closing says that the socket which is connected from local to remote has been
// closed, or shut down for writing. A socket of another machine is unknown, and
// not closing.
func (p *peerStates) closing(local, remote net.Addr) bool {
	from, ok := local.(*net.TCPAddr)
	to, ok2 := remote.(*net.TCPAddr)
	if !ok || !ok2 {
		return false
	}
	state, err := p.state(from, to)
	if err != nil && err != unix.ENOENT {
		p.close() // an answer that is still to come must not be taken for another's
	}
	switch {
	case err == unix.ENOENT:
		return from.IP.IsLoopback() // it was of this machine, and is gone
	case err != nil:
		return false
	}
	switch state {
	case unix.BPF_TCP_FIN_WAIT1, unix.BPF_TCP_FIN_WAIT2, unix.BPF_TCP_CLOSING, unix.BPF_TCP_LAST_ACK, unix.BPF_TCP_TIME_WAIT, unix.BPF_TCP_CLOSE:
		return true
	}
	return false
}

// state is the TCP state of a socket. Errors: ENOENT when there is none.
func (p *peerStates) state(local, remote *net.TCPAddr) (byte, error) {
	if p.fd < 0 {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_SOCK_DIAG)
		if err != nil {
			return 0, err
		}
		p.fd = fd
	}
	p.seq++
	if err := unix.Sendto(p.fd, diagRequestOf(p.seq, local, remote), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return 0, err
	}
	// The kernel has answered before the request was sent.
	var buf [4096]byte
	n, _, err := unix.Recvfrom(p.fd, buf[:], 0)
	switch {
	case err != nil:
		return 0, err
	case n < diagErrno+4 || binary.NativeEndian.Uint32(buf[8:]) != p.seq:
		return 0, unix.EBADMSG
	}
	if binary.NativeEndian.Uint16(buf[4:]) == unix.NLMSG_ERROR {
		return 0, unix.Errno(-int32(binary.NativeEndian.Uint32(buf[diagErrno:])))
	}
	return buf[diagState], nil
}

// diagRequestOf asks for one socket.
func diagRequestOf(seq uint32, local, remote *net.TCPAddr) []byte {
	b := make([]byte, diagRequest)
	binary.NativeEndian.PutUint32(b, diagRequest)
	binary.NativeEndian.PutUint16(b[4:], unix.SOCK_DIAG_BY_FAMILY)
	binary.NativeEndian.PutUint16(b[6:], unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(b[8:], seq)
	b[unix.SizeofNlMsghdr+1] = unix.IPPROTO_TCP
	binary.NativeEndian.PutUint32(b[unix.SizeofNlMsghdr+4:], ^uint32(0)) // in any state
	id := b[diagID:]
	binary.BigEndian.PutUint16(id, uint16(local.Port))
	binary.BigEndian.PutUint16(id[2:], uint16(remote.Port))
	src, dst := local.IP.To4(), remote.IP.To4()
	b[unix.SizeofNlMsghdr] = unix.AF_INET
	if src == nil || dst == nil {
		b[unix.SizeofNlMsghdr] = unix.AF_INET6
		src, dst = local.IP.To16(), remote.IP.To16()
	}
	copy(id[4:20], src)
	copy(id[20:36], dst)
	binary.NativeEndian.PutUint64(id[40:], diagAnyCookie)
	return b
}

func (p *peerStates) close() {
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}
