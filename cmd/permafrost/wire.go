package main

import "time"

// The answers of rest.md as far as the verbs read them. They are declared
// here, on the consumer's side, so that the command line is a client like any
// other and breaks when the contract does.

type wireHold struct {
	Hold      string     `json:"hold"`
	Holder    string     `json:"holder"`
	Reason    string     `json:"reason"`
	Since     time.Time  `json:"since"`
	ExpiresAt time.Time  `json:"expires_at"`
	EndedAt   *time.Time `json:"ended_at"`
	End       string     `json:"end"`
}

type wirePhase struct {
	Name       string  `json:"name"`
	DurationUS float64 `json:"duration_us"`
}

type wireFlushed struct {
	Inodes uint64 `json:"inodes"`
	Pages  uint64 `json:"pages"`
	Bytes  uint64 `json:"bytes"`
}

type wireFreeze struct {
	ID             uint64            `json:"id"`
	Hold           string            `json:"hold"`
	Token          string            `json:"token"`
	State          string            `json:"state"`
	Generation     uint64            `json:"generation"`
	RequestedAt    time.Time         `json:"requested_at"`
	FrozenAt       *time.Time        `json:"frozen_at"`
	EndedAt        *time.Time        `json:"ended_at"`
	ExpiresAt      *time.Time        `json:"expires_at"`
	Holds          []wireHold        `json:"holds"`
	WindowUS       float64           `json:"window_us"`
	TotalUS        float64           `json:"total_us"`
	Phases         []wirePhase       `json:"phases"`
	Modes          map[string]string `json:"modes"`
	PrecleanPasses int               `json:"preclean_passes"`
	Flushed        wireFlushed       `json:"flushed"`
	WindowFlushed  wireFlushed       `json:"window_flushed"`
	LongestWaitUS  float64           `json:"longest_wait_us"`
	BlockedTotal   uint64            `json:"blocked_total"`
}

// noteNotify warns of a freeze for which the mount fell back.
func (fr *wireFreeze) noteNotify(c *console) {
	if fr.Modes["mount"] == "notify" {
		c.notef("permafrost: the kernel did not finish writing back the mount in time: the image is still and consistent, "+
			"but stores through mappings of the mount may be missing in freeze %d that were made before others it has\n", fr.ID)
	}
}

type wireThaw struct {
	FreezeID uint64  `json:"freeze_id"`
	Hold     string  `json:"hold"`
	Changed  bool    `json:"changed"`
	Held     bool    `json:"held"`
	FrozenMS float64 `json:"frozen_ms"`
	Thawed   bool    `json:"thawed"`
}

type wireStatus struct {
	State      string      `json:"state"`
	Level      string      `json:"level"`
	Since      time.Time   `json:"since"`
	Freeze     *wireFreeze `json:"freeze"`
	LastFreeze *wireFreeze `json:"last_freeze"`
	InstanceID string      `json:"instance_id"`
	Version    string      `json:"version"`
	Generation uint64      `json:"generation"`
	UptimeS    float64     `json:"uptime_s"`
	Pmem       struct {
		Path              string `json:"path"`
		SizeBytes         int64  `json:"size_bytes"`
		Domain            string `json:"domain"`
		SurvivesPowerLoss bool   `json:"survives_power_loss"`
		FlushInstruction  string `json:"flush_instruction"`
	} `json:"pmem"`
	Space struct {
		TotalBytes uint64 `json:"total_bytes"`
		UsedBytes  uint64 `json:"used_bytes"`
		FreeBytes  uint64 `json:"free_bytes"`
	} `json:"space"`
	Inodes struct {
		Total  uint64 `json:"total"`
		Cached uint64 `json:"cached"`
		Dirty  uint64 `json:"dirty"`
	} `json:"inodes"`
	DirtyPagesTotal uint64 `json:"dirty_pages_total"`
	MappingsTotal   uint64 `json:"mappings_total"`
	BlockedTotal    uint64 `json:"blocked_total"`
	Error           string `json:"error"`
	BadBlocksTotal  uint64 `json:"bad_blocks_total"`
	BadPendingTotal uint64 `json:"bad_blocks_pending_total"`
	Ledger          struct {
		State string `json:"state"`
		Path  string `json:"path"`
	} `json:"ledger"`
	Attach *struct {
		Socket  string `json:"socket"`
		Clients int    `json:"clients"`
	} `json:"attach"`
	AttachRefused string     `json:"attach_refused"`
	Mount         *wireMount `json:"mount"`
	MountEnded    string     `json:"mount_ended"`
}

type wireMount struct {
	Dir                 string        `json:"dir"`
	Options             string        `json:"options"`
	Since               time.Time     `json:"since"`
	OpenTotal           int           `json:"open_total"`
	WritableTotal       int           `json:"writable_total"`
	RequestsInsideTotal int64         `json:"requests_inside_total"`
	HeldTotal           int64         `json:"held_total"`
	RefusedTotal        uint64        `json:"refused_total"`
	Operations          []wireMountOp `json:"operations"`
}

type wireMountOp struct {
	Op         string  `json:"op"`
	CountTotal uint64  `json:"count_total"`
	MeanUS     float64 `json:"mean_us"`
	MedianUS   float64 `json:"median_us"`
	P99US      float64 `json:"p99_us"`
}

type wireInode struct {
	Ino        uint64    `json:"ino"`
	Paths      []string  `json:"paths"`
	Type       string    `json:"type"`
	Mode       string    `json:"mode"`
	SizeBytes  int64     `json:"size_bytes"`
	Nlink      uint32    `json:"nlink"`
	Mtime      time.Time `json:"mtime"`
	Dirty      bool      `json:"dirty"`
	DirtyPages uint64    `json:"dirty_pages_total"`
	Mappings   int       `json:"mappings_total"`
}

type wireMapping struct {
	ID            uint64 `json:"id"`
	Ino           uint64 `json:"ino"`
	Path          string `json:"path"`
	WayIn         string `json:"way_in"`
	PID           int    `json:"pid"`
	Command       string `json:"command"`
	UID           uint32 `json:"uid"`
	WritablePages uint64 `json:"writable_pages_total"`
	DirtyPages    uint64 `json:"dirty_pages_total"`
}

type wireBlocked struct {
	ID       uint64    `json:"id"`
	Op       string    `json:"op"`
	Ino      uint64    `json:"ino"`
	Path     string    `json:"path"`
	WayIn    string    `json:"way_in"`
	PID      int       `json:"pid"`
	Command  string    `json:"command"`
	Remote   string    `json:"remote"`
	Since    time.Time `json:"since"`
	WaitedUS float64   `json:"waited_us"`
}

type wireList[T any] struct {
	Items      []T    `json:"items"`
	NextCursor string `json:"next_cursor"`
}

type wireEntry struct {
	Name      string    `json:"name"`
	Href      string    `json:"href"`
	Type      string    `json:"type"`
	SizeBytes int64     `json:"size_bytes"`
	Mode      string    `json:"mode"`
	Mtime     time.Time `json:"mtime"`
	Ino       uint64    `json:"ino"`
	Target    string    `json:"target"`
}

type wireBadBlock struct {
	Block uint64 `json:"block"`
	State string `json:"state"`
	Ino   uint64 `json:"ino"`
	Page  uint64 `json:"page"`
	Path  string `json:"path"`
}

type wireScrub struct {
	State        string     `json:"state"`
	StartedAt    *time.Time `json:"started_at"`
	EndedAt      *time.Time `json:"ended_at"`
	NextAt       *time.Time `json:"next_at"`
	Nodes        uint64     `json:"nodes"`
	NodesTotal   uint64     `json:"nodes_total"`
	DamagedTotal uint64     `json:"damaged_total"`
	Damages      []struct {
		Block  uint64 `json:"block"`
		Detail string `json:"detail"`
	} `json:"damages"`
}
